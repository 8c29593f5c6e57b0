//! The change feed from memory: the newest changes of each collection up to its watermark, as JSON
//! pages or live ([`live`]).
//!
//! Same paths, same frames and same answers as a publisher's, for which the log is kept; here it is
//! a ring, so a reader hears `trimmed` sooner. An item is the data of an event: what only the log
//! knows is not in it. Every page is of one view.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::header::ACCEPT, web};
use contract::{
    CollectionName, Epoch, EventData, FeedPage, Head, Revision,
    feed::{self, FeedGoneError, FeedScope, PAGE, PAGE_BYTES, PageBudget, Since},
};
use replica::View;
use serde::Deserialize;

use super::{
    AppState,
    read::{about, about_all, followed, head_of, loaded},
};
use crate::error::ApiError;

mod live;

/// `?since=41` of one collection, `?since=A:41,B:7` of several.
#[derive(Debug, Deserialize)]
pub(super) struct Position {
    since: Option<String>,
    epoch: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/collections/{c}/changes`.
pub(super) async fn one(
    request: HttpRequest,
    state: web::Data<AppState>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let view = loaded(&state)?;
    let (name, held) = followed(&view, &path)?;
    head_of(&view, &name, held).ok_or_else(|| ApiError::unversioned(name.as_str()))?;
    answer(&request, &state, &view, FeedScope::One(name))
}

/// `GET /v1/changes`.
pub(super) async fn all(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    answer(&request, &state, &*loaded(&state)?, FeedScope::Several)
}

fn answer(
    request: &HttpRequest,
    state: &web::Data<AppState>,
    view: &View,
    scope: FeedScope,
) -> Result<HttpResponse, ApiError> {
    let position = web::Query::<Position>::from_query(request.query_string());
    let position = position
        .map_err(|error| ApiError::bad_request("limit", error))?
        .into_inner();
    let accept = header(request, ACCEPT.as_str())?;
    if feed::wants_stream(accept.as_deref()) {
        return live::answer(request, state, view, scope, &position);
    }
    let since = position
        .since(&scope)?
        .ok_or_else(|| ApiError::bad_request("since", "missing"))?;
    let heads = heads(view, &since)?;
    let limit = position.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let items = changes(view, &heads, &since, position.epoch()?, (limit, PAGE_BYTES));
    let items = items.map_err(|gone| ApiError::from(gone.problem()))?;
    let mut reached = since;
    reached.extend(
        items
            .iter()
            .map(|data| (data.collection.clone(), data.revision.unwrap_or_default())),
    );
    let more = heads
        .iter()
        .any(|head| reached[&head.collection] < head.revision);
    let mut answer = match &scope {
        FeedScope::One(name) => {
            followed(view, name.as_str()).map(|(name, held)| about(view, &name, held))?
        }
        FeedScope::Several => about_all(view),
    };
    Ok(answer.json(FeedPage { heads, items, more }))
}

impl Position {
    fn epoch(&self) -> Result<Option<Epoch>, ApiError> {
        let epoch = self.epoch.as_deref().map(str::parse).transpose();
        epoch.map_err(|error| ApiError::bad_request("epoch", error))
    }

    fn since(&self, scope: &FeedScope) -> Result<Option<Since>, ApiError> {
        let since = self
            .since
            .as_deref()
            .map(|since| scope.since(since))
            .transpose();
        since.map_err(|error| ApiError::bad_request("since", error))
    }
}

fn header(request: &HttpRequest, name: &str) -> Result<Option<String>, ApiError> {
    let lines: Result<Vec<_>, _> = request
        .headers()
        .get_all(name)
        .map(|line| line.to_str())
        .collect();
    let lines =
        lines.map_err(|_not_ascii| ApiError::bad_request(name, "expected visible ASCII"))?;
    Ok((!lines.is_empty()).then(|| lines.join(", ")))
}

/// The heads of the collections of a position.
fn heads(view: &View, since: &Since) -> Result<Vec<Head>, ApiError> {
    let head = |name: &CollectionName| {
        let (name, held) = followed(view, name.as_str())?;
        head_of(view, &name, held).ok_or_else(|| ApiError::unversioned(name.as_str()))
    };
    since.keys().map(head).collect()
}

/// The next changes of these collections, at most so many and so many bytes, by collection.
fn changes(
    view: &View,
    heads: &[Head],
    since: &Since,
    epoch: Option<Epoch>,
    (room, budget): (usize, usize),
) -> Result<Vec<EventData>, FeedGoneError> {
    let mut pending = Vec::new();
    for head in heads {
        let Some(after) = since.get(&head.collection).copied() else {
            continue;
        };
        feed::check(head, after, epoch)?;
        if after < head.revision {
            pending.push((head, after));
        }
    }
    pending.sort_by_key(|(head, after)| head.revision - after);
    let mut shares = PageBudget::new(pending.len(), room, budget);
    let mut items = BTreeMap::<&CollectionName, Vec<EventData>>::new();
    for (head, after) in pending {
        let (found, bytes) = next(view, &head.collection, after, shares.share());
        shares.spent(found.len(), bytes);
        items.insert(&head.collection, found);
    }
    Ok(items.into_values().flatten().collect())
}

/// Changes of a collection and their bytes: none when there is no room, else at least one.
fn next(
    view: &View,
    name: &CollectionName,
    after: Revision,
    (room, budget): (usize, usize),
) -> (Vec<EventData>, usize) {
    let mut bytes = 0;
    let fits = |data: &EventData| {
        let fits = bytes < budget;
        bytes += data
            .config_data
            .as_ref()
            .map_or(0, |config| config.as_str().len());
        fits
    };
    let ring = view.changes(name).into_iter();
    let found = ring
        .flat_map(|ring| ring.after(after))
        .take(room)
        .take_while(fits)
        .collect();
    (found, bytes.min(budget))
}
