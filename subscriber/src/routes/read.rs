//! The read half of the API, from memory: same paths, same bodies as a publisher's.
//!
//! Every answer is made from one pinned view, headers and body alike, and nothing is built whole
//! that can be long. Before the first load nothing is answered: "not there" and "not loaded" must
//! never look the same.
//!
//! A collection whose publisher counts no revisions has no head: its list begins without one, and
//! it is neither among the heads nor in a snapshot.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, VARY},
    web,
};
use contract::{
    CollectionName, DocumentId, Head, Heads,
    listing::{self, ListFormat, ListWriter, NDJSON},
    snapshot::{SETTLED, SnapshotStart},
    status::ReplicaState,
};
use futures_util::stream;
use replica::{ChangeBuffer, RawCollection as Collection, View};
use serde::Deserialize;

use super::{
    AppState,
    pieces::{Frame, Pieces},
    tags::{self, unchanged},
};
use crate::error::ApiError;

/// Where the data of an answer stands: `<epoch>-<watermark>` when it concerns one collection, the
/// epoch when it concerns several (their heads are in the body), `unversioned` when there is no
/// epoch.
pub const REVISION_HEADER: HeaderName = HeaderName::from_static("confcast-revision");
/// How far the data of an answer may be trusted: a [`ReplicaState`].
pub const STATE_HEADER: HeaderName = HeaderName::from_static("confcast-state");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) const UNVERSIONED: &str = "unversioned";

/// `GET /v1/collections`: the heads of all followed collections.
pub async fn heads(state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    let view = loaded(&state)?;
    let heads = view
        .root()
        .collections()
        .filter_map(|(name, held)| head_of(&view, name, held))
        .collect();
    Ok(about_all(&view).json(Heads { heads }))
}

/// `GET /v1/collections/{c}`: its head.
pub async fn head(
    state: web::Data<AppState>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let view = loaded(&state)?;
    let (name, held) = followed(&view, &path)?;
    let head = head_of(&view, &name, held).ok_or_else(|| ApiError::unversioned(name.as_str()))?;
    Ok(about(&view, &name, held).json(head))
}

/// `GET /v1/collections/{c}/documents`: all documents, as JSON or as newline-delimited JSON.
pub async fn documents(
    request: HttpRequest,
    state: web::Data<AppState>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let view = loaded(&state)?;
    let (name, held) = followed(&view, &path)?;
    let head = head_of(&view, &name, held);
    let accepted: Vec<_> = request
        .headers()
        .get_all(ACCEPT)
        .filter_map(|line| line.to_str().ok())
        .collect();
    let form = ListFormat::accepted(Some(&accepted.join(", ")));
    let etag = tags::of_list(head.as_ref(), held, form);
    let mut answer = about(&view, &name, held);
    answer
        .insert_header((ETAG, etag.clone()))
        .insert_header((VARY, "Accept"));
    if unchanged(&request, &etag) {
        return Ok(not_modified(answer));
    }
    let mut begun = Vec::new();
    let listing = match &head {
        Some(head) => ListWriter::open(form, head, &mut begun),
        None => ListWriter::open_headless(form, &mut begun),
    };
    let pieces = Pieces::new(
        Arc::clone(&view),
        VecDeque::from([name]),
        Frame::List(listing),
        begun,
    );
    Ok(answer
        .content_type(form.media_type())
        .streaming(stream::iter(pieces)))
}

/// `GET /v1/collections/{c}/documents/{id}`.
pub async fn document(
    request: HttpRequest,
    state: web::Data<AppState>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let view = state.replica.view_guard();
    if !view.loaded() {
        return Err(ApiError::loading());
    }
    let (name, held) = followed(&view, &path.0)?;
    let id: DocumentId = path
        .1
        .parse()
        .map_err(|error| ApiError::bad_request("id", error))?;
    let mut answer = about(&view, &name, held);
    let Some(document) = held.get(&id) else {
        return Ok(ApiError::no_data(&name, &id).answer(answer));
    };
    let etag = document.etag();
    answer.insert_header((ETAG, etag.clone()));
    if unchanged(&request, &etag) {
        return Ok(not_modified(answer));
    }
    answer.insert_header((CONTENT_TYPE, JSON));
    Ok(answer.body(document.json().clone()))
}

#[derive(Deserialize)]
struct Asked {
    collections: Option<String>,
}

/// `GET /v1/snapshot?collections=a,b`: all documents of some collections (all followed ones, when
/// none are named) at one moment, as another replica loads them.
pub async fn snapshot(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let view = loaded(&state)?;
    let asked = web::Query::<Asked>::from_query(request.query_string());
    let asked = asked
        .map_err(|error| ApiError::bad_request("collections", error))?
        .into_inner();
    let names: BTreeSet<CollectionName> = match asked.collections {
        Some(listed) => listed
            .split(',')
            .map(|name| followed(&view, name).map(|(name, _held)| name))
            .collect::<Result<_, _>>()?,
        None => view
            .root()
            .collections()
            .map(|(name, _held)| name.clone())
            .collect(),
    };
    let head = |name: &CollectionName| {
        let head = view
            .root()
            .collection(name)
            .and_then(|held| head_of(&view, name, held));
        head.ok_or_else(|| ApiError::unversioned(name.as_str()))
    };
    let heads: Vec<Head> = names.iter().map(head).collect::<Result<_, _>>()?;
    // There are heads, so there is an epoch.
    let epoch = view.root().epoch().ok_or_else(ApiError::loading)?;
    let mut begun = Vec::new();
    listing::start_line(&SnapshotStart { epoch, heads }, &mut begun);
    let settled = names.iter().all(|name| {
        view.root()
            .collection(name)
            .is_some_and(Collection::settled)
    });
    let pieces = Pieces::new(
        Arc::clone(&view),
        names.into_iter().collect(),
        Frame::Snapshot { count: 0 },
        begun,
    );
    let mut answer = about_all(&view);
    answer.insert_header((SETTLED, if settled { "true" } else { "false" }));
    Ok(answer.content_type(NDJSON).streaming(stream::iter(pieces)))
}

pub(super) fn loaded(state: &AppState) -> Result<Arc<View>, ApiError> {
    let view = state.replica.view();
    if view.loaded() {
        Ok(view)
    } else {
        Err(ApiError::loading())
    }
}

/// What cannot be the name of a collection is the name of none.
pub(super) fn followed<'a>(
    view: &'a View,
    name: &str,
) -> Result<(CollectionName, &'a Collection), ApiError> {
    let known = name
        .parse()
        .ok()
        .and_then(|name: CollectionName| Some((name.clone(), view.root().collection(&name)?)));
    known.ok_or_else(|| ApiError::unknown_collection(name))
}

/// The head of a followed collection, at its watermark. Documents beyond a gap are in it already,
/// so its count and digest fit what is served, and the publisher's at that revision only when there
/// is no gap.
pub(super) fn head_of(view: &View, name: &CollectionName, held: &Collection) -> Option<Head> {
    let epoch = view.root().epoch().filter(|_epoch| held.versioned())?;
    Some(Head {
        revision: held.watermark(),
        count: held.count(),
        digest: held.digest(),
        oldest: view
            .changes(name)
            .map_or(held.watermark() + 1, ChangeBuffer::oldest),
        ..Head::empty(name.clone(), epoch)
    })
}

pub(super) fn about(view: &View, name: &CollectionName, held: &Collection) -> HttpResponseBuilder {
    let epoch = view.root().epoch().filter(|_epoch| held.versioned());
    let revision = epoch.map(|epoch| format!("{epoch}-{}", held.watermark()));
    answer(revision, view.state_of(name, Instant::now()))
}

pub(super) fn about_all(view: &View) -> HttpResponseBuilder {
    answer(
        view.root().epoch().map(|epoch| epoch.to_string()),
        view.state(Instant::now()),
    )
}

fn answer(revision: Option<String>, state: ReplicaState) -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer.insert_header((
        REVISION_HEADER,
        revision.unwrap_or_else(|| UNVERSIONED.to_owned()),
    ));
    answer.insert_header((STATE_HEADER, HeaderValue::from_static(state.as_str())));
    answer
}

fn not_modified(mut answer: HttpResponseBuilder) -> HttpResponse {
    answer
        .status(actix_web::http::StatusCode::NOT_MODIFIED)
        .finish()
}
