//! Check-ins of replicas that follow this one: the answer has the heads of this replica, and the age
//! of its last confirmation.
//!
//! The age adds up from level to level, so a chain is never more current than its first link.
//! It names the collections that the caller may follow.
//! Nothing is remembered of the caller and its body is not read: the caller compares its digests with
//! these heads by itself.

use std::time::Instant;

use actix_web::{HttpResponse, web};
use contract::{
    CollectionName,
    access::{Right, Target},
    fleet::CheckInAnswer,
};
use service::http::{caller::Caller, problem::ProblemError};

use super::Api;

/// `PUT /v1/replicas/{instance}`.
///
/// # Errors
/// 503 `loading`.
pub async fn check_in(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, ProblemError> {
    let view = api.loaded()?;
    let may_follow = |name: &CollectionName| caller.may(Right::Follow, Target::Collection(name));
    let age = view
        .confirmed(Instant::now())
        .map(|age| age.as_millis().try_into().unwrap_or(u64::MAX));
    let loaded = view
        .root()
        .collections()
        .filter(|(name, held)| held.loaded() && view.is_served(name) && may_follow(name));
    let served = loaded.map(|(name, _held)| name.clone()).collect();
    let heads = view
        .root()
        .collections()
        // What no publisher serves is confirmed by nobody, so no replica below is told of it.
        .filter(|(name, _held)| view.is_served(name) && may_follow(name))
        .filter_map(|(name, _held)| view.head(name))
        .collect();
    let unsettled = view
        .root()
        .collections()
        .filter(|(name, held)| held.loaded() && !held.settled() && may_follow(name))
        .map(|(name, _held)| name.clone())
        .collect();
    Ok(HttpResponse::Ok().json(CheckInAnswer {
        unsettled,
        confirm_after_ms: None,
        report_after_ms: None,
        heads,
        served,
        age: age.unwrap_or(u64::MAX),
        without_topic: Default::default(),
        id_only: None,
        resync: Default::default(),
    }))
}
