//! Whole collections: heads, lists and snapshots.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, http::header, web};
use contract::{CollectionName, Heads, access::Right, listing::NDJSON};
use futures_util::StreamExt as _;
use serde::Deserialize;
use service::http::{
    caller::Caller, etag, problem::ProblemError, shared_text::Coding, snapshot_slots::Client,
};

use crate::api::{Api, error::ApiError, past, store_failed, stream};

/// `?collections=a,b`; all collections when it is absent.
#[derive(Debug, Deserialize)]
pub(super) struct Selection {
    collections: Option<String>,
}

impl Api {
    /// The named collections, or all that the caller may see.
    fn selected(
        &self,
        caller: &Caller,
        rights: &[Right],
        selection: &Selection,
    ) -> Result<BTreeSet<CollectionName>, ApiError> {
        match &selection.collections {
            None => Ok(self.visible(caller, rights)),
            Some(names) => names
                .split(',')
                .map(|name| {
                    caller.collection(rights, name.trim())?;
                    self.collection(caller, name.trim())
                })
                .collect(),
        }
    }
}

pub(super) async fn heads(
    api: web::Data<Api>,
    caller: Caller,
    selection: web::Query<Selection>,
) -> Result<HttpResponse, ApiError> {
    let rights = &[Right::Read, Right::Observe];
    let heads = api
        .store
        .heads(&api.selected(&caller, rights, &selection)?)
        .await
        .map_err(store_failed)?;
    Ok(HttpResponse::Ok().json(Heads { heads }))
}

pub(super) async fn head(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let collection = api.collection(&caller, &name)?;
    let heads = api
        .store
        .heads(&BTreeSet::from([collection]))
        .await
        .map_err(store_failed)?;
    let head = heads
        .into_iter()
        .next()
        .ok_or_else(|| ProblemError::unknown_collection(&name, []))?;
    let mut response = HttpResponse::Ok();
    match etag::conditional(&request, &mut response, &etag::of_head(&head)) {
        Some(answered) => Ok(answered),
        None => Ok(response.json(head)),
    }
}

/// All documents of a collection (GetAll). Head and documents are of one snapshot.
pub(super) async fn documents(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    point: web::Query<past::PointQuery>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let collection = api.collection(&caller, &name)?;
    let format = etag::list_format(&request)?;
    let point = point.point()?;
    let slot = api.list_slot(&request).await?;
    if let Some(point) = point {
        return past::documents(&api, &request, &collection, &point, slot, format).await;
    }
    let mut reading = api
        .store
        .documents(&BTreeSet::from([collection]))
        .await
        .map_err(store_failed)?;
    let head = reading
        .heads
        .first()
        .ok_or_else(|| ProblemError::unknown_collection(&name, []))?;
    let etag = etag::of_list(&format!("{}-{}", head.epoch, head.revision), format);
    let mut response = HttpResponse::Ok();
    response.insert_header((header::VARY, "Accept"));
    match etag::conditional(&request, &mut response, &etag) {
        Some(answered) => Ok(answered),
        None => {
            reading.begin().await.map_err(store_failed)?;
            Ok(stream::list(response, reading, slot, format))
        }
    }
}

/// All documents of several collections from one snapshot, as a replica loads them. Loads of the same
/// moment share one reading of the store.
pub(super) async fn snapshot(
    api: web::Data<Api>,
    caller: Caller,
    selection: web::Query<Selection>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let selected = api.selected(&caller, &[Right::Read], &selection)?;
    let heads = api.store.heads(&selected).await.map_err(store_failed)?;
    let joined = || {
        let shared = api
            .shared_snapshots
            .join(&heads, Coding::of_joining(&request))?;
        Some(shared.answer(ndjson()))
    };
    if let Some(answer) = joined() {
        return Ok(answer);
    }
    let Some(slot) = api.snapshots.open(Client::of(&request)).await else {
        api.metrics.snapshots_refused.inc();
        return Err(ProblemError::loads_under_way().into());
    };
    let _begin_alone = api.shared_snapshots.begin_alone().await;
    // Those that waited for the lock find what the first of them began.
    if let Some(answer) = joined() {
        return Ok(answer);
    }
    let mut reading = api.store.documents(&selected).await.map_err(store_failed)?;
    reading.begin().await.map_err(store_failed)?;
    let heads = reading.heads.clone();
    let pieces = stream::snapshot(reading, slot).boxed();
    let shared = api
        .shared_snapshots
        .begin(heads, pieces, Coding::of_first(&request));
    Ok(shared.answer(ndjson()))
}

fn ndjson() -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer.content_type(NDJSON);
    answer
}
