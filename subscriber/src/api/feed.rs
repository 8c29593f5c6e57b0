//! The change feed from memory: the newest changes of each collection, up to its watermark.
//!
//! Paths, frames and answers are those of a publisher. A publisher keeps a log; a replica keeps a
//! limited number of changes, so its readers are told `trimmed` sooner. An item is the data of an
//! event: what only the log knows is not in it. Every page is made from one view.

use std::{convert::Infallible, sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    CollectionName, EventData, Head, Revision,
    access::{Right, Target},
    feed::{FeedScope, Since},
};
use replica::{Replica, View};
use service::http::{
    caller::Caller,
    feed::{
        self, FeedError, FeedLimits, FeedPosition, FeedRequest, FeedView, ReadChanges,
        live::{self, FeedViews, LiveStart},
        value_bytes,
    },
    problem::ProblemError,
    stream_slots::SlotUse,
};
use tokio::sync::watch;

use super::{Api, collections::followed, error, headers};

/// `GET /v1/collections/{collection}/changes`.
pub(super) async fn one(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
    path: web::Path<String>,
) -> Result<HttpResponse, ProblemError> {
    let view = api.loaded_of(&path)?;
    let name = versioned(&view, &caller, &path)?;
    answer(&request, &api, &caller, view, FeedScope::One(name)).await
}

/// `GET /v1/changes`.
pub(super) async fn all(
    request: HttpRequest,
    api: web::Data<Api>,
    caller: Caller,
) -> Result<HttpResponse, ProblemError> {
    let view = api.loaded()?;
    answer(&request, &api, &caller, view, FeedScope::Several).await
}

async fn answer(
    request: &HttpRequest,
    api: &Api,
    caller: &Caller,
    view: Arc<View>,
    scope: FeedScope,
) -> Result<HttpResponse, ProblemError> {
    let asked = FeedRequest::parse(request, scope)?;
    for name in asked.collections() {
        caller.require(Right::Read, Target::Collection(name))?;
        versioned(&view, caller, name.as_str())?;
    }
    let headers = match &asked.scope {
        FeedScope::One(name) => {
            let (name, held) = followed(&view, caller, name.as_str())?;
            headers::of_collection(&view, &name, held)
        }
        FeedScope::Several => headers::of_all(&view),
    };
    if !asked.live {
        return Ok(feed::page(&MemoryView(view, caller.clone()), asked, headers).await?);
    }
    let now = view.root().epoch().ok_or_else(error::loading)?;
    let start = match asked.position {
        Some(FeedPosition { epoch, since }) => LiveStart {
            epoch: epoch.unwrap_or(now),
            since,
            scope: asked.scope,
        },
        None => LiveStart {
            epoch: now,
            since: present(&view, caller, &asked.scope),
            scope: asked.scope,
        },
    };
    let slot = api.streams.open(asked.source, SlotUse::Stream)?;
    let views = MemoryViews {
        caller: caller.clone(),
        moved: api.replica.feed_changed(),
        replica: api.replica.clone(),
    };
    Ok(live::stream(views, start, slot, headers))
}

/// The name of a followed collection that has revisions.
fn versioned(view: &View, caller: &Caller, name: &str) -> Result<CollectionName, ProblemError> {
    let (name, _held) = followed(view, caller, name)?;
    if view.head(&name).is_none() {
        return Err(error::unversioned(name.as_str()));
    }
    Ok(name)
}

/// The watermarks of all collections of the feed that the caller may read.
fn present(view: &View, caller: &Caller, scope: &FeedScope) -> Since {
    let mut since = Since::new();
    for (name, held) in view.root().collections() {
        let included = match scope {
            FeedScope::One(only) => only == name,
            FeedScope::Several => caller.may(Right::Read, Target::Collection(name)),
        };
        if included && view.head(name).is_some() {
            since.insert(name.clone(), held.watermark());
        }
    }
    since
}

/// One view of the replica as a feed.
struct MemoryView(Arc<View>, Caller);

impl FeedView for MemoryView {
    type Item = EventData;
    type Unavailable = Infallible;

    fn head(&self, collection: &CollectionName) -> Option<Head> {
        self.0.head(collection)
    }

    async fn changes(
        &self,
        head: &Head,
        after: Revision,
        limits: FeedLimits,
    ) -> Result<ReadChanges<EventData>, FeedError<Infallible>> {
        let mut items = Vec::new();
        let mut bytes = 0;
        let visible = self.0.changes(&head.collection).into_iter();
        for mut data in visible
            .flat_map(|buffer| buffer.after(after))
            .take(limits.changes)
        {
            if bytes >= limits.bytes {
                break;
            }
            feed::hide_parts(data.change_set.as_mut(), &self.1);
            bytes += value_bytes(data.config_data.as_ref());
            items.push(data);
        }
        Ok(ReadChanges {
            items,
            bytes: bytes.min(limits.bytes),
        })
    }
}

/// The views of the replica, as it changes.
struct MemoryViews {
    caller: Caller,
    replica: Replica,
    moved: watch::Receiver<u64>,
}

impl FeedViews for MemoryViews {
    type View = MemoryView;

    const LIMITS: FeedLimits = FeedLimits {
        changes: 256,
        bytes: 64 << 10,
    };
    const AHEAD_GRACE: Duration = Duration::from_secs(2);

    fn newest(&mut self) -> MemoryView {
        // Before the view is taken: a change in between is reported once more, and none is missed.
        self.moved.mark_unchanged();
        MemoryView(self.replica.view(), self.caller.clone())
    }

    async fn changed(&mut self) -> bool {
        self.moved.changed().await.is_ok()
    }
}
