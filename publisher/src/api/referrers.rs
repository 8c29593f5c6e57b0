//! What refers to a document, by the schemas in force.

use actix_web::{HttpRequest, HttpResponse, web};
use contract::references::Referrers;
use service::http::caller::Caller;

use crate::api::{Api, error::ApiError, store_failed};

/// Most places that an answer names.
pub(super) const LIMIT: usize = 1_000;

/// Those that the caller may read. The document need not exist: then these are the references without a document.
pub(super) async fn get(
    api: web::Data<Api>,
    caller: Caller,
    key: web::Path<(String, String)>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let key = api.document_key(&caller, &key)?;
    // It reads whole collections, as a list does.
    let slot = api.list_slot(&request).await?;
    let found = api
        .store
        .referrers(key, LIMIT + 1, caller.identity().clone(), slot)
        .await;
    let mut items = found.map_err(store_failed)?;
    let more = items.len() > LIMIT;
    items.truncate(LIMIT);
    Ok(HttpResponse::Ok().json(Referrers { items, more }))
}
