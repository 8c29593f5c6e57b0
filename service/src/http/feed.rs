//! The change feed: `GET /v1/changes` and `GET /v1/collections/{collection}/changes`, as JSON pages
//! or as a live stream ([`live`]).
//!
//! Both services answer with this code. Each hands over a [`FeedView`]: heads, and the changes up to
//! them. Changes are sent strictly by revision, without gaps. A reader that cannot be served without
//! a gap gets the reason and has to load a snapshot: with 410 for a page, with the event `resync`
//! in a stream. Nothing here reads a log or memory itself.

use std::{borrow::Cow, collections::BTreeMap, convert::Infallible, future::Future};

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web::Query};
use contract::{
    ChangeSet, CollectionName, Epoch, EventData, Head, Revision,
    access::{Right, Target},
    feed::{
        self, EVENT_STREAM, FeedGoneError, FeedScope, MAX_NEXT, NEXT_HEADER, PAGE, PAGE_BYTES,
        PageBudget, Since,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    JSON, accept::preferred, caller::Caller, header_text, problem::ProblemError, source::Source,
};

pub mod live;

/// Query of both routes: `?since=41` for one collection, `?since=A:41,B:7` for several.
#[derive(Debug, Deserialize)]
struct FeedQuery {
    /// Revision, or collections with revisions, by the scope.
    since: Option<String>,
    /// The epoch of `since`.
    epoch: Option<String>,
    /// Most changes of a page; a larger number than the maximum counts as the maximum.
    limit: Option<usize>,
}

/// A request for the feed, parsed.
#[derive(Debug)]
pub struct FeedRequest {
    /// Which feed.
    pub scope: FeedScope,
    /// Whether the caller asks for a live stream rather than a page.
    pub live: bool,
    /// The position of the reader. `None` means the present, which only a stream can begin with.
    pub position: Option<FeedPosition>,
    /// Whose request it is, for the limit of streams.
    pub source: Source,
    /// Most changes of a page.
    limit: usize,
}

/// The position of a reader: the changes after it are sent.
#[derive(Debug, Clone)]
pub struct FeedPosition {
    /// The history that `since` counts in, if the reader says so.
    pub epoch: Option<Epoch>,
    /// The last revision that the reader has, by collection.
    pub since: Since,
}

impl FeedRequest {
    /// Parses `Accept`, the query, and for a stream `Last-Event-ID`, which wins over the query.
    ///
    /// # Errors
    /// 400 `bad-request` when one of them is not of its form, or when `since` of a page is missing.
    pub fn parse(request: &HttpRequest, scope: FeedScope) -> Result<Self, ProblemError> {
        let query = Query::<FeedQuery>::from_query(request.query_string());
        let FeedQuery {
            since,
            epoch,
            limit,
        } = query.map_err(unreadable_query)?.into_inner();
        let live = preferred(request, &[&[JSON], &[EVENT_STREAM]])? == 1;
        let mut position = None;
        // A client that reconnects sends the id of its last event together with the old query.
        if live && let Some(id) = header_text(request, "Last-Event-ID")?.filter(|id| !id.is_empty())
        {
            let parsed = scope.position(&id);
            let (epoch, since) =
                parsed.map_err(|error| ProblemError::bad_request("Last-Event-ID", error))?;
            position = Some(FeedPosition {
                epoch: Some(epoch),
                since,
            });
        }
        if position.is_none() {
            let epoch = epoch.as_deref().map(str::parse).transpose();
            let epoch = epoch.map_err(|error| ProblemError::bad_request("epoch", error))?;
            let since = since.as_deref().map(|since| scope.since(since)).transpose();
            let since = since.map_err(|error| ProblemError::bad_request("since", error))?;
            position = since.map(|since| FeedPosition { epoch, since });
        }
        // A page is a difference, so it needs a beginning; a stream can begin with the present.
        if !live && position.is_none() {
            return Err(ProblemError::unreadable("missing field `since`"));
        }
        Ok(Self {
            scope,
            live,
            position,
            source: Source::of(request),
            limit: limit.unwrap_or(PAGE).clamp(1, PAGE),
        })
    }

    /// The collections of the position; none when the reader begins with the present.
    pub fn collections(&self) -> impl Iterator<Item = &CollectionName> {
        self.position
            .iter()
            .flat_map(|position| position.since.keys())
    }
}

/// The error for a query that cannot be read. `limit` is the only member that is not a text, so an
/// error without a field name is about `limit`.
fn unreadable_query(error: impl std::fmt::Display) -> ProblemError {
    let error = ProblemError::unreadable(error);
    match error.problem().field {
        Some(_) => error,
        None => ProblemError::bad_request("limit", &error.problem().detail),
    }
}

/// An item of the feed: what the functions of this module need to know of it.
pub trait FeedItem {
    /// Its collection.
    fn collection(&self) -> &CollectionName;
    /// Its revision.
    fn revision(&self) -> Revision;
    /// The history that the revision counts in.
    fn epoch(&self) -> Option<Epoch>;
    /// The item as JSON, in one line.
    fn json(&self) -> Cow<'_, str>;
}

impl FeedItem for EventData {
    fn collection(&self) -> &CollectionName {
        &self.collection
    }

    fn revision(&self) -> Revision {
        self.revision.unwrap_or_default()
    }

    fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    fn json(&self) -> Cow<'_, str> {
        json(self).into()
    }
}

/// A value of the wire as JSON.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("wire types have string keys and finite numbers only")
}

/// Limits of one read: changes, and bytes of their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedLimits {
    /// Most changes.
    pub changes: usize,
    /// Bytes of values after which the read ends.
    pub bytes: usize,
}

/// Heads of one moment, and the changes up to them.
///
/// Each service implements it: the publisher over its store, the subscriber over the changes that it
/// holds in memory.
pub trait FeedView {
    /// A change.
    type Item: FeedItem;
    /// Why changes could not be read. It is temporary; [`Infallible`] when it cannot happen.
    type Unavailable;

    /// The head of a collection; `None` when the collection is not served.
    fn head(&self, collection: &CollectionName) -> Option<Head>;

    /// Changes after a revision, in order and without a gap: at least one when the limits are above
    /// 0, and none beyond the head.
    ///
    /// # Errors
    /// [`FeedError::Gone`] when the next change is no longer there.
    fn changes(
        &self,
        head: &Head,
        after: Revision,
        limits: FeedLimits,
    ) -> impl Future<Output = Result<ReadChanges<Self::Item>, FeedError<Self::Unavailable>>>;
}

/// The result of one read of changes.
#[derive(Debug)]
pub struct ReadChanges<I> {
    /// The changes.
    pub items: Vec<I>,
    /// Bytes of their values.
    pub bytes: usize,
}

/// Why there are no next changes.
#[derive(Debug)]
pub enum FeedError<U> {
    /// The reader cannot continue from its position without a gap.
    Gone(FeedGoneError),
    /// The changes cannot be read now.
    Unavailable(U),
}

impl<U> From<FeedGoneError> for FeedError<U> {
    fn from(gone: FeedGoneError) -> Self {
        Self::Gone(gone)
    }
}

impl From<FeedError<Infallible>> for ProblemError {
    fn from(error: FeedError<Infallible>) -> Self {
        match error {
            FeedError::Gone(gone) => gone.problem().into(),
            FeedError::Unavailable(never) => match never {},
        }
    }
}

/// The answer with one page: a [`contract::FeedPage`] as JSON. Headers that `answer` has already are kept.
///
/// `more` is true when a collection has changes after the page, so that the reader asks again at
/// once; [`NEXT_HEADER`] says with which `since`.
///
/// # Errors
/// When the reader cannot continue from its position, or when the changes cannot be read now.
pub async fn page<V: FeedView>(
    view: &V,
    request: FeedRequest,
    mut answer: HttpResponseBuilder,
) -> Result<HttpResponse, FeedError<V::Unavailable>> {
    // `FeedRequest::parse` refuses a page without a position.
    let FeedPosition { epoch, since } = request.position.unwrap_or_else(|| FeedPosition {
        epoch: None,
        since: Since::new(),
    });
    let heads = heads_of(view, &since);
    let limits = FeedLimits {
        changes: request.limit,
        bytes: PAGE_BYTES,
    };
    let items = next_changes(view, &heads, &since, epoch, limits).await?;
    // The position after this page decides whether there is more.
    let mut reached = since;
    for item in &items {
        reached.insert(item.collection().clone(), item.revision());
    }
    let more = heads
        .iter()
        .any(|head| reached[&head.collection] < head.revision);
    let next = request.scope.text(&reached);
    if more && next.len() <= MAX_NEXT {
        answer.insert_header((NEXT_HEADER, next));
    }
    answer.content_type(JSON);
    Ok(answer.body(page_text(&heads, &items, more)))
}

/// A [`contract::FeedPage`] as JSON. Items give their own text: that of a record is there already.
fn page_text(heads: &[Head], items: &[impl FeedItem], more: bool) -> String {
    let items: Vec<_> = items.iter().map(FeedItem::json).collect();
    let heads = json(&heads);
    let bytes: usize = items.iter().map(|item| item.len() + 1).sum();
    let mut page = String::with_capacity(heads.len() + bytes + 50);
    page += r#"{"heads":"#;
    page += &heads;
    page += r#","items":["#;
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            page.push(',');
        }
        page += item;
    }
    page += r#"],"more":"#;
    page += if more { "true}" } else { "false}" };
    page
}

/// Heads of the collections of a position, by name.
fn heads_of(view: &impl FeedView, since: &Since) -> Vec<Head> {
    since
        .keys()
        .filter_map(|collection| view.head(collection))
        .collect()
}

/// The next changes of the collections, by collection and revision, within the limits. A collection
/// without a head is not served and is omitted.
///
/// # Errors
/// When one of the positions cannot continue, or when the changes cannot be read now.
async fn next_changes<V: FeedView>(
    view: &V,
    heads: &[Head],
    since: &Since,
    epoch: Option<Epoch>,
    limits: FeedLimits,
) -> Result<Vec<V::Item>, FeedError<V::Unavailable>> {
    let mut pending = Vec::new();
    for head in heads {
        let Some(after) = since.get(&head.collection).copied() else {
            continue;
        };
        // All positions are checked before anything is read: a page is complete or not sent.
        feed::check(head, after, epoch)?;
        if after < head.revision {
            pending.push((head, after));
        }
    }
    // The budget gives the rest of a page to the collection that has most to send.
    pending.sort_by_key(|(head, after)| head.revision - after);
    let mut budget = PageBudget::new(pending.len(), limits.changes, limits.bytes);
    let mut items = BTreeMap::<&CollectionName, Vec<V::Item>>::new();
    for (head, after) in pending {
        let (changes, bytes) = budget.share();
        let read = view
            .changes(head, after, FeedLimits { changes, bytes })
            .await?;
        budget.spent(read.items.len(), read.bytes);
        items.insert(&head.collection, read.items);
    }
    Ok(items.into_values().flatten().collect())
}

/// Leaves out the collections of a change set that the reader may not read. Its other parts become
/// visible without them, as for a replica that does not follow them.
pub fn hide_parts(set: Option<&mut ChangeSet>, reader: &Caller) {
    if let Some(set) = set {
        set.parts
            .retain(|part| reader.may(Right::Read, Target::Collection(&part.collection)));
    }
}

/// Bytes of the value of a change, as the limits of the feed count them.
pub fn value_bytes(value: Option<&contract::CanonicalJson>) -> usize {
    value.map_or(0, |value| value.as_str().len())
}
