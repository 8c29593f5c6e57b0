//! Whole collections, from memory: heads, lists and snapshots.
//!
//! Every answer is made from one pinned view, headers and body alike, and long answers are sent in
//! pieces. Before the first load every read is answered 503: "does not exist" and "not loaded yet"
//! must never look the same.
//!
//! A collection whose publisher has no revisions has no head: its list begins without one, and it is
//! neither among the heads nor in a snapshot.

use std::{collections::BTreeSet, sync::Arc};

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, http::header::VARY, web};
use contract::{
    CollectionName, Epoch, Head, Heads,
    access::{Right, Target},
    listing::NDJSON,
    snapshot::{SETTLED, SnapshotStart},
};
use futures_util::StreamExt as _;
use replica::{RawCollection as Collection, View};
use serde::Deserialize;
use service::http::{
    caller::Caller, etag, frames::DocumentFrames, problem::ProblemError, shared_text::Coding,
    snapshot_slots::Client,
};

use super::{Api, error, fresh::Fresh, headers, stream};

/// Rights of which each gives the heads.
const HEADS: &[Right] = &[Right::Read, Right::Observe];

/// `?collections=a,b`; all collections when it is absent.
#[derive(Deserialize)]
struct Selection {
    collections: Option<String>,
}

/// `GET /v1/collections`: the heads of all followed collections.
///
/// # Errors
/// 503 `loading`, 404 `unknown-collection`.
pub async fn heads(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, ProblemError> {
    let view = api.loaded()?;
    let names = selected(&view, &caller, HEADS, &request)?;
    let heads = names.iter().filter_map(|name| view.head(name)).collect();
    Ok(headers::of_all(&view).json(Heads { heads }))
}

/// `GET /v1/collections/{collection}`: its head.
///
/// # Errors
/// 503 `loading`, 404 `unknown-collection`, 404 `unversioned`.
pub async fn head(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    path: web::Path<String>,
    _fresh: Fresh,
) -> Result<HttpResponse, ProblemError> {
    let view = api.loaded_of(&path)?;
    let (name, held) = followed(&view, &caller, &path)?;
    let head = view
        .head(&name)
        .ok_or_else(|| error::unversioned(name.as_str()))?;
    let mut answer = headers::of_collection(&view, &name, held);
    match etag::conditional(&request, &mut answer, &etag::of_head(&head)) {
        Some(answered) => Ok(answered),
        None => Ok(answer.json(head)),
    }
}

/// `GET /v1/collections/{collection}/documents`: all documents, as JSON or as newline-delimited
/// JSON.
///
/// # Errors
/// 503 `loading`, 404 `unknown-collection`.
pub async fn documents(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    path: web::Path<String>,
    _fresh: Fresh,
) -> Result<HttpResponse, ProblemError> {
    let view = api.loaded_of(&path)?;
    let (name, held) = followed(&view, &caller, &path)?;
    let head = view.head(&name);
    let format = etag::list_format(&request)?;
    let etag = etag::of_list(&version(head.as_ref(), held), format);
    let mut answer = headers::of_collection(&view, &name, held);
    answer.insert_header((VARY, "Accept"));
    if let Some(answered) = etag::conditional(&request, &mut answer, &etag) {
        return Ok(answered);
    }
    let mut begun = Vec::new();
    let frames = DocumentFrames::list(format, head.as_ref(), &mut begun);
    let slot = api.lists.open(Client::of(&request)).await;
    let slot = slot.ok_or_else(ProblemError::lists_under_way)?;
    let pieces = stream::Pieces::new(Arc::clone(&view), [name], frames, begun, slot);
    Ok(answer
        .content_type(format.media_type())
        .streaming(pieces.into_stream()))
}

/// What the entity tag of a list says: the same version means the same list, byte by byte.
///
/// With a gap, or without revisions, only the digest identifies the content.
fn version(head: Option<&Head>, held: &Collection) -> String {
    let digest = held.digest();
    match head {
        Some(head) if held.settled() => format!("{}-{}", head.epoch, head.revision),
        Some(head) => format!("{}-{}-{digest}", head.epoch, head.revision),
        None => format!("{}-{digest}", headers::UNVERSIONED),
    }
}

/// `GET /v1/snapshot?collections=a,b`: all documents of some collections at one moment, as another
/// replica loads them.
///
/// # Errors
/// 503 `loading`, 400 `bad-request`, 404 `unknown-collection`, 404 `unversioned`.
pub async fn snapshot(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, ProblemError> {
    let join = |load: &Load| {
        let coding = Coding::of_joining(&request);
        // With a gap, heads do not say what is held.
        let shared = load
            .settled
            .then(|| api.shared_snapshots.join(&load.heads, coding))?;
        Some(shared?.answer(load.answer()))
    };
    if let Some(shared) = join(&Load::of_newest(&api, &caller, &request)?) {
        return Ok(shared);
    }
    let slot = api.snapshots.open(Client::of(&request)).await;
    let slot = slot.ok_or_else(ProblemError::loads_under_way)?;
    // All that waited find what the first of them has begun, also when a change came meanwhile.
    let load = Load::of_newest(&api, &caller, &request)?;
    if let Some(shared) = join(&load) {
        return Ok(shared);
    }
    let mut answer = load.answer();
    let mut begun = Vec::new();
    let start = SnapshotStart {
        epoch: load.epoch,
        heads: load.heads.clone(),
    };
    let frames = DocumentFrames::snapshot(&start, &mut begun);
    let pieces = stream::Pieces::new(load.view, load.names, frames, begun, slot).into_stream();
    if !load.settled {
        return Ok(answer.streaming(pieces));
    }
    let coding = Coding::of_first(&request);
    let shared = (api.shared_snapshots).begin(load.heads, pieces.boxed(), coding);
    Ok(shared.answer(answer))
}

/// What a snapshot is made of.
struct Load {
    view: Arc<View>,
    epoch: Epoch,
    names: BTreeSet<CollectionName>,
    heads: Vec<Head>,
    /// No collection has a gap.
    settled: bool,
}

impl Load {
    /// The collections that the request selects, in the newest view.
    fn of_newest(api: &Api, caller: &Caller, request: &HttpRequest) -> Result<Self, ProblemError> {
        let view = api.loaded()?;
        let names = selected(&view, caller, &[Right::Read], request)?;
        let mut heads = Vec::with_capacity(names.len());
        let mut settled = true;
        for name in &names {
            let (_name, held) = followed(&view, caller, name.as_str())?;
            let head = view.head(name);
            heads.push(head.ok_or_else(|| error::unversioned(name.as_str()))?);
            settled &= held.settled();
        }
        // A view with heads has an epoch.
        let epoch = view.root().epoch().ok_or_else(error::loading)?;
        Ok(Self {
            view,
            epoch,
            names,
            heads,
            settled,
        })
    }

    /// The beginning of the answer.
    fn answer(&self) -> HttpResponseBuilder {
        let mut answer = headers::of_all(&self.view);
        answer.insert_header((SETTLED, if self.settled { "true" } else { "false" }));
        answer.content_type(NDJSON);
        answer
    }
}

/// The collections that the query selects; without it all followed ones for which the caller has one
/// of the rights.
fn selected(
    view: &View,
    caller: &Caller,
    rights: &[Right],
    request: &HttpRequest,
) -> Result<BTreeSet<CollectionName>, ProblemError> {
    let selection = web::Query::<Selection>::from_query(request.query_string())
        .map_err(|error| ProblemError::bad_request("collections", error))?;
    match &selection.collections {
        Some(listed) => listed
            .split(',')
            .map(|name| {
                caller.collection(rights, name.trim())?;
                followed(view, caller, name.trim()).map(|(name, _held)| name)
            })
            .collect(),
        None => Ok(view
            .root()
            .collections()
            .filter(|(_name, held)| held.loaded())
            .map(|(name, _held)| name)
            .filter(|name| {
                let target = Target::Collection(name);
                rights.iter().any(|right| caller.may(*right, target))
            })
            .cloned()
            .collect()),
    }
}

/// A followed collection that is loaded, of a view in which all are that a publisher serves. A text
/// that is not the name of a collection is answered like an unknown name.
pub(super) fn followed<'a>(
    view: &'a View,
    caller: &Caller,
    name: &str,
) -> Result<(CollectionName, &'a Collection), ProblemError> {
    let known = name
        .parse()
        .ok()
        .and_then(|name: CollectionName| Some((name.clone(), view.root().collection(&name)?)));
    match known {
        // "Does not exist" and "not loaded yet" must never look the same.
        Some((_name, held)) if held.joining() => Err(error::loading()),
        // What no publisher serves does not exist here either.
        Some((name, held)) if held.loaded() => Ok((name, held)),
        _ => {
            let loaded = view
                .root()
                .collections()
                // A caller that may not see all is told no name that it did not say.
                .filter(|(_name, held)| held.loaded() && caller.sees_all());
            let names = loaded.map(|(name, _held)| name);
            Err(ProblemError::unknown_collection(name, names))
        }
    }
}
