//! Whole collections: heads, lists and snapshots.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use contract::{CollectionName, Head, Heads, listing::ListFormat};
use serde::Deserialize;

use crate::api::{Api, error::ApiError, has_already, header_text, store_failed, stream};

/// `?collections=a,b`; all when it is left out.
#[derive(Debug, Deserialize)]
pub(super) struct Selection {
    collections: Option<String>,
}

impl Api {
    fn selected(&self, selection: &Selection) -> Result<BTreeSet<CollectionName>, ApiError> {
        match &selection.collections {
            None => Ok(self.terms.collections.clone()),
            Some(names) => names
                .split(',')
                .map(|name| self.collection(name.trim()))
                .collect(),
        }
    }

    async fn head_of(&self, collection: &CollectionName) -> Result<Head, ApiError> {
        let heads = self
            .store
            .heads(&BTreeSet::from([collection.clone()]))
            .await
            .map_err(store_failed)?;
        heads
            .into_iter()
            .next()
            .ok_or_else(|| ApiError::unknown_collection(collection.as_str()))
    }
}

pub(super) async fn heads(
    api: web::Data<Api>,
    selection: web::Query<Selection>,
) -> Result<HttpResponse, ApiError> {
    let heads = api
        .store
        .heads(&api.selected(&selection)?)
        .await
        .map_err(store_failed)?;
    Ok(HttpResponse::Ok().json(Heads { heads }))
}

pub(super) async fn head(
    api: web::Data<Api>,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let head = api.head_of(&api.collection(&name)?).await?;
    Ok(HttpResponse::Ok()
        .insert_header((header::ETAG, head.etag()))
        .json(head))
}

/// GetAll. Heads and documents are of one moment.
pub(super) async fn documents(
    api: web::Data<Api>,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let collection = api.collection(&name)?;
    let form = ListFormat::accepted(header_text(&request, header::ACCEPT)?.as_deref());
    let reading = api
        .store
        .documents(&BTreeSet::from([collection]))
        .await
        .map_err(store_failed)?;
    let etag = reading
        .heads
        .first()
        .map(|head| list_etag(head, form))
        .unwrap_or_default();
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::ETAG, etag.as_str()))
        .insert_header((header::VARY, "Accept"));
    if has_already(&request, &etag)? {
        return Ok(response
            .status(actix_web::http::StatusCode::NOT_MODIFIED)
            .finish());
    }
    Ok(stream::list(response, reading, form))
}

/// The two forms of a list differ byte by byte, so their strong tags do (RFC 9110 section 8.8.3).
fn list_etag(head: &Head, form: ListFormat) -> String {
    match form {
        ListFormat::Json => head.etag(),
        ListFormat::NdJson => format!("\"{}-{}-ndjson\"", head.epoch, head.revision),
    }
}

/// What a replica loads.
pub(super) async fn snapshot(
    api: web::Data<Api>,
    selection: web::Query<Selection>,
) -> Result<HttpResponse, ApiError> {
    let selected = api.selected(&selection)?;
    let load = api.loads.begin().await.ok_or_else(|| {
        api.metrics.snapshots_refused.inc();
        ApiError::loads_under_way()
    })?;
    let reading = api.store.documents(&selected).await.map_err(store_failed)?;
    Ok(stream::snapshot(HttpResponse::Ok(), reading, load).await)
}
