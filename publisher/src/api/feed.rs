//! The change feed from the log of the store.
//!
//! [`service::http::feed`] answers both forms of the feed; this module reads heads and changes. A
//! stream reads the log at the pace of its reader; [`crate::feed_watch`] reports new heads, and lets
//! streams share a read.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    CollectionName, Epoch, Head, Revision,
    access::{Right, Target},
    event::Confirm,
    feed::{CONFIRM_HEADER, FeedGoneError, FeedScope, at_heads},
};
use service::http::{
    caller::Caller,
    feed::{
        self, FeedError, FeedItem, FeedLimits, FeedPosition, FeedRequest, FeedView, ReadChanges,
        live::{self, FeedViews, LiveStart},
    },
    stream_slots::SlotUse,
};
use tokio::sync::watch;

use crate::{
    api::{Api, error::ApiError, store_failed},
    feed_watch::{HeadsReading, SharedReads},
    store::FeedRecord,
};

pub(super) async fn one(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let scope = FeedScope::One(api.collection(&caller, &name)?);
    answer(api, caller, scope, &request).await
}

pub(super) async fn all(
    api: web::Data<Api>,
    caller: Caller,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    answer(api, caller, FeedScope::Several, &request).await
}

async fn answer(
    api: web::Data<Api>,
    caller: Caller,
    scope: FeedScope,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let feed_request = FeedRequest::parse(request, scope)?;
    // Before the heads are read: a store takes a head that it does not have for damage.
    for name in feed_request.collections() {
        caller.require(Right::Read, Target::Collection(name))?;
        api.collection(&caller, name.as_str())?;
    }
    if feed_request.live {
        return stream(api, caller, feed_request).await;
    }
    let names: BTreeSet<_> = feed_request.collections().cloned().collect();
    let mut answer = HttpResponse::Ok();
    if api.fleet.wants_confirmations() {
        answer.insert_header((CONFIRM_HEADER, Confirm::Applied.as_str()));
    }
    let heads = api.store.heads(&names).await.map_err(store_failed)?;
    let view = LogView {
        api,
        caller,
        heads: heads.into(),
        // A page is read once.
        reads: SharedReads::default(),
    };
    Ok(feed::page(&view, feed_request, answer).await?)
}

async fn stream(
    api: web::Data<Api>,
    caller: Caller,
    feed_request: FeedRequest,
) -> Result<HttpResponse, ApiError> {
    let slot = api
        .streams
        .open(feed_request.source.clone(), SlotUse::Stream)?;
    let (heads_receiver, first) = api.feed.follow().await;
    let heads = first.heads.ok_or_else(ApiError::store_unavailable)?;
    let of_scope: Vec<_> = heads
        .iter()
        .filter(|head| match &feed_request.scope {
            FeedScope::One(name) => head.collection == *name,
            FeedScope::Several => caller.may(Right::Read, Target::Collection(&head.collection)),
        })
        .cloned()
        .collect();
    let (now, present) = at_heads(&of_scope).ok_or_else(ApiError::store_unavailable)?;
    let start = match feed_request.position {
        // A position without an epoch is of the present history.
        Some(FeedPosition { epoch, since }) => LiveStart {
            epoch: epoch.unwrap_or(now),
            since,
            scope: feed_request.scope,
        },
        // Without a position the stream begins with the next change.
        None => LiveStart {
            epoch: now,
            since: present,
            scope: feed_request.scope,
        },
    };
    let views = LogViews {
        api,
        caller,
        heads_receiver,
        heads,
    };
    Ok(live::stream(views, start, slot, HttpResponse::Ok()))
}

impl From<FeedError<anyhow::Error>> for ApiError {
    fn from(error: FeedError<anyhow::Error>) -> Self {
        match error {
            FeedError::Gone(gone) => gone.problem().into(),
            FeedError::Unavailable(error) => store_failed(error),
        }
    }
}

/// The log up to some heads.
struct LogView {
    api: web::Data<Api>,
    caller: Caller,
    heads: Arc<[Head]>,
    reads: SharedReads,
}

impl FeedView for LogView {
    type Item = FeedRecord;
    type Unavailable = anyhow::Error;

    fn head(&self, collection: &CollectionName) -> Option<Head> {
        self.heads
            .iter()
            .find(|head| head.collection == *collection)
            .cloned()
    }

    async fn changes(
        &self,
        head: &Head,
        after: Revision,
        limits: FeedLimits,
    ) -> Result<ReadChanges<FeedRecord>, FeedError<anyhow::Error>> {
        // The page is full. An empty read below would be taken for a trimmed log.
        if limits.changes == 0 || limits.bytes == 0 {
            return Ok(ReadChanges {
                items: Vec::new(),
                bytes: 0,
            });
        }
        let mut items = self
            .reads
            .records(&self.api.store, &head.collection, after, limits)
            .await
            .map_err(FeedError::Unavailable)?;
        // The log may have grown since the heads were read; newer changes wait for the next page.
        items.retain(|record| record.revision() <= head.revision);
        let contiguous = items
            .iter()
            .zip(after + 1..)
            .all(|(record, revision)| record.revision() == revision);
        // A gap: retention removed changes after the heads were read.
        if items.is_empty() || !contiguous {
            let collection = head.collection.clone();
            return Err(FeedGoneError::Trimmed {
                collection,
                next: after + 1,
            }
            .into());
        }
        for record in items.iter_mut().filter(|record| self.hides_part(record)) {
            *record = self.readable(record).map_err(unreadable)?;
        }
        let bytes = items.iter().map(FeedRecord::value_bytes).sum();
        Ok(ReadChanges { items, bytes })
    }
}

impl LogView {
    /// Whether the caller may not read a part of the change's set. All others get the text of the
    /// record.
    fn hides_part(&self, record: &FeedRecord) -> bool {
        let may_read = |name| self.caller.may(Right::Read, Target::Collection(name));
        let mut parts = record.change_set().into_iter().flat_map(|set| &set.parts);
        !parts.all(|part| may_read(&part.collection))
    }

    /// A change of a set as the caller may read it.
    fn readable(&self, record: &FeedRecord) -> serde_json::Result<FeedRecord> {
        let mut change = record.change()?;
        feed::hide_parts(change.change_set.as_mut(), &self.caller);
        FeedRecord::of(&change)
    }
}

fn unreadable(error: serde_json::Error) -> FeedError<anyhow::Error> {
    FeedError::Unavailable(anyhow::Error::new(error).context("a record of the change log"))
}

impl FeedItem for FeedRecord {
    fn collection(&self) -> &CollectionName {
        self.collection()
    }

    fn revision(&self) -> Revision {
        self.revision()
    }

    fn epoch(&self) -> Option<Epoch> {
        Some(self.epoch())
    }

    fn json(&self) -> Cow<'_, str> {
        self.text().into()
    }
}

/// The log, as it grows.
struct LogViews {
    api: web::Data<Api>,
    caller: Caller,
    heads_receiver: watch::Receiver<HeadsReading>,
    /// The newest heads that could be read.
    heads: Arc<[Head]>,
}

impl FeedViews for LogViews {
    type View = LogView;

    /// Smaller than a page, because a thousand streams may each hold one read in memory.
    const LIMITS: FeedLimits = FeedLimits {
        changes: 256,
        bytes: 256 << 10,
    };
    /// Publishers of one store are never behind each other for longer than one reading of heads.
    const AHEAD_GRACE: Duration = Duration::ZERO;

    fn newest(&mut self) -> LogView {
        let reading = self.heads_receiver.borrow_and_update();
        // A failed reading has no heads: the stream continues with the heads that it has.
        if let Some(heads) = &reading.heads {
            self.heads = heads.clone();
        }
        LogView {
            api: self.api.clone(),
            caller: self.caller.clone(),
            heads: self.heads.clone(),
            // Of the newest reading, so that no read is older than the heads.
            reads: reading.reads.clone(),
        }
    }

    async fn changed(&mut self) -> bool {
        self.heads_receiver.changed().await.is_ok()
    }

    fn is_awaited(&self) -> bool {
        self.api.fleet.wants_confirmations()
    }
}
