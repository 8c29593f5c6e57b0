//! What a replica hears that follows this one: where this one is, and since when that is known to
//! be true.
//!
//! The age adds up from level to level, so a chain is never more current than its first link.
//! Nothing is remembered of whoever checks in, and nothing is judged: the log that tells right from
//! wrong is the publisher's.

use std::time::Instant;

use actix_web::{HttpResponse, web};
use contract::{CollectionName, fleet::CheckInAnswer};

use super::{
    AppState,
    read::{head_of, loaded},
};
use crate::error::ApiError;

/// `PUT /v1/replicas/{instance}`.
pub(super) async fn answer(state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    let view = loaded(&state)?;
    let age = view
        .confirmed(Instant::now())
        .map(|age| age.as_millis().try_into().unwrap_or(u64::MAX));
    let head = |(name, held): (&CollectionName, _)| head_of(&view, name, held);
    let heads = view.root().collections().filter_map(head).collect();
    Ok(HttpResponse::Ok().json(CheckInAnswer {
        report_after_ms: None,
        heads,
        age: age.unwrap_or(u64::MAX),
        resync: Default::default(),
    }))
}
