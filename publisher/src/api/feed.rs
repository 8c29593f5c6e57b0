//! The change feed: strictly by revision, contiguous, from the log; as JSON pages, or live
//! ([`live`]).
//!
//! A reader that cannot be served contiguously is told so with a reason, and loads a snapshot: with
//! 410 where it asked for a page, with the event `resync` where it follows.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use contract::{
    Change, CollectionName, Epoch, Head, Revision,
    feed::{self, FeedGoneError, FeedScope, PAGE, PAGE_BYTES, PageBudget, Since},
};
use serde::Deserialize;

use crate::api::{Api, error::ApiError, header_text, store_failed};

mod live;

/// `?since=41` of one collection, `?since=A:41,B:7` of several.
#[derive(Debug, Deserialize)]
pub(super) struct Position {
    since: Option<String>,
    epoch: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn one(
    api: web::Data<Api>,
    name: web::Path<String>,
    position: web::Query<Position>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let scope = FeedScope::One(api.collection(&name)?);
    answer(api, scope, &position, &request).await
}

pub(super) async fn all(
    api: web::Data<Api>,
    position: web::Query<Position>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    answer(api, FeedScope::Several, &position, &request).await
}

async fn answer(
    api: web::Data<Api>,
    scope: FeedScope,
    position: &Position,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    if feed::wants_stream(header_text(request, header::ACCEPT)?.as_deref()) {
        live::answer(api, scope, position, request).await
    } else {
        api.page(&scope, position).await
    }
}

/// Why there is no next page.
#[derive(Debug)]
enum Halt {
    /// It cannot follow without a gap.
    Gone(FeedGoneError),
    /// The store cannot be read now.
    Store(anyhow::Error),
}

impl From<Halt> for ApiError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Gone(gone) => gone.problem().into(),
            Halt::Store(error) => store_failed(error),
        }
    }
}

impl Position {
    fn epoch(&self) -> Result<Option<Epoch>, ApiError> {
        let epoch = self.epoch.as_deref().map(str::parse).transpose();
        epoch.map_err(|error| ApiError::bad_field("epoch", error))
    }

    fn since(&self, scope: &FeedScope) -> Result<Option<Since>, ApiError> {
        let since = self
            .since
            .as_deref()
            .map(|since| scope.since(since))
            .transpose();
        since.map_err(|error| ApiError::bad_field("since", error))
    }
}

impl Api {
    /// All of it is served here.
    fn known(&self, since: &Since) -> Result<(), ApiError> {
        since
            .keys()
            .try_for_each(|name| self.collection(name.as_str()).map(drop))
    }

    async fn page(&self, scope: &FeedScope, position: &Position) -> Result<HttpResponse, ApiError> {
        let since = position
            .since(scope)?
            .ok_or_else(|| ApiError::unreadable("missing field `since`"))?;
        self.known(&since)?;
        let names: BTreeSet<_> = since.keys().cloned().collect();
        let heads = self.store.heads(&names).await.map_err(store_failed)?;
        let limit = position.limit.unwrap_or(PAGE).clamp(1, PAGE);
        let items = self
            .changes(&heads, &since, position.epoch()?, (limit, PAGE_BYTES))
            .await?;
        let mut reached = since;
        reached.extend(
            items
                .iter()
                .map(|change| (change.collection.clone(), change.revision)),
        );
        let more = heads
            .iter()
            .any(|head| reached[&head.collection] < head.revision);
        Ok(HttpResponse::Ok().json(contract::FeedPage { heads, items, more }))
    }

    /// The next changes of these collections, at most so many and so many bytes, by collection.
    async fn changes(
        &self,
        heads: &[Head],
        since: &Since,
        epoch: Option<Epoch>,
        (room, budget): (usize, usize),
    ) -> Result<Vec<Change>, Halt> {
        let mut pending = Vec::new();
        for head in heads {
            let Some(after) = since.get(&head.collection).copied() else {
                continue;
            };
            feed::check(head, after, epoch).map_err(Halt::Gone)?;
            if after < head.revision {
                pending.push((head, after));
            }
        }
        pending.sort_by_key(|(head, after)| head.revision - after);
        let mut shares = PageBudget::new(pending.len(), room, budget);
        let mut items = BTreeMap::<&CollectionName, Vec<Change>>::new();
        for (head, after) in pending {
            let found = self.contiguous(head, after, shares.share()).await?;
            shares.spent(found.len(), found.iter().map(size).sum());
            items.insert(&head.collection, found);
        }
        Ok(items.into_values().flatten().collect())
    }

    /// Changes of a collection up to its head: none when there is no room, else at least one.
    async fn contiguous(
        &self,
        head: &Head,
        after: Revision,
        (room, budget): (usize, usize),
    ) -> Result<Vec<Change>, Halt> {
        if room == 0 || budget == 0 {
            return Ok(Vec::new());
        }
        let mut found = self
            .store
            .changes(&head.collection, after, room, budget)
            .await
            .map_err(Halt::Store)?;
        // The log may have grown since the heads were read; what is newer than them waits for the
        // next page.
        found.retain(|change| change.revision <= head.revision);
        let unbroken = found
            .iter()
            .zip(after + 1..)
            .all(|(change, revision)| change.revision == revision);
        if found.is_empty() || !unbroken {
            Err(Halt::Gone(FeedGoneError::Trimmed {
                collection: head.collection.clone(),
                next: after + 1,
            }))
        } else {
            Ok(found)
        }
    }
}

fn size(change: &Change) -> usize {
    change
        .config_data
        .as_ref()
        .map_or(0, |config| config.as_str().len())
}
