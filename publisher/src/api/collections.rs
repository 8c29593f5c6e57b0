//! Whole collections: heads, lists and snapshots.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, http::header, web};
use contract::{CollectionName, Head, Heads, access::Right, listing::NDJSON};
use futures_util::StreamExt as _;
use serde::Deserialize;
use service::http::{
    caller::Caller, etag, problem::ProblemError, shared_text::Coding, snapshot_slots::Client,
};

use crate::api::{Api, error::ApiError, fresh::Fresh, past, store_failed, stream};

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

impl Api {
    /// The heads of these collections, for a load that has no slot.
    async fn load_heads(&self, selected: &BTreeSet<CollectionName>) -> Result<Vec<Head>, ApiError> {
        let served = self.policy.collections.all();
        let heads = self
            .load_heads
            .get(async || self.store.heads(&served).await);
        let heads = heads.await.map_err(store_failed)?;
        let heads = heads
            .iter()
            .filter(|head| selected.contains(&head.collection));
        Ok(heads.cloned().collect())
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
    _fresh: Fresh,
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
    _fresh: Fresh,
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
/// revisions share one reading of the store, and those that join it need no slot.
pub(super) async fn snapshot(
    api: web::Data<Api>,
    caller: Caller,
    selection: web::Query<Selection>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let selected = api.selected(&caller, &[Right::Read], &selection)?;
    let join = |heads: &Vec<Head>| {
        let coding = Coding::of_joining(&request);
        let shared = api.shared_snapshots.join(heads, coding)?;
        api.metrics.snapshots.inc();
        Some(shared.answer(ndjson()))
    };
    let heads = api.load_heads(&selected).await?;
    if let Some(answer) = join(&heads) {
        return Ok(answer);
    }
    let Some(slot) = api.snapshots.open(Client::of(&request)).await else {
        api.metrics.snapshots_refused.inc();
        return Err(ProblemError::loads_under_way().into());
    };
    // The first one that waited for a slot has begun what the others join.
    if let Some(answer) = join(&heads) {
        return Ok(answer);
    }
    let mut reading = api.store.documents(&selected).await.map_err(store_failed)?;
    // After a write during the wait it is found by the newer heads.
    if let Some(answer) = join(&reading.heads) {
        return Ok(answer);
    }
    reading.begin().await.map_err(store_failed)?;
    let heads = reading.heads.clone();
    let pieces = stream::snapshot(reading, slot).boxed();
    let shared = api
        .shared_snapshots
        .begin(heads, pieces, Coding::of_first(&request));
    api.metrics.snapshots.inc();
    Ok(shared.answer(ndjson()))
}

fn ndjson() -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer.content_type(NDJSON);
    answer
}
