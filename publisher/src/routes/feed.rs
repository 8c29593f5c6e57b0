//! The change feed as JSON pages: strictly by revision, contiguous, from the log.
//!
//! A reader that cannot be served contiguously is told 410 with a reason, and loads a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::{HttpResponse, web};
use contract::{Change, CollectionName, Epoch, Feed, Head, Revision};
use serde::Deserialize;

use super::{Api, store_failed};
use crate::error::ApiError;

/// Most changes in a page, and what a page holds when it is not said.
const PAGE: usize = 1_000;
/// Bytes of values after which a page ends; it holds at least one change. Collections share it.
const PAGE_BYTES: usize = 4 << 20;

/// `?since=41` of one collection, `?since=A:41,B:7` of several.
#[derive(Debug, Deserialize)]
pub(super) struct Position {
    since: String,
    epoch: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn one(
    api: web::Data<Api>,
    name: web::Path<String>,
    position: web::Query<Position>,
) -> Result<HttpResponse, ApiError> {
    let collection = api.collection(&name)?;
    let since = revision(&position.since)?;
    api.page(BTreeMap::from([(collection, since)]), &position).await
}

pub(super) async fn all(api: web::Data<Api>, position: web::Query<Position>) -> Result<HttpResponse, ApiError> {
    let pair = |text: &str| {
        let pair = text.trim().split_once(':');
        let (name, since) = pair.ok_or_else(|| ApiError::bad_field("since", "expected Collection:revision,…"))?;
        Ok((api.collection(name)?, revision(since)?))
    };
    let since: Result<_, ApiError> = position.since.split(',').map(pair).collect();
    api.page(since?, &position).await
}

impl Api {
    async fn page(
        &self,
        since: BTreeMap<CollectionName, Revision>,
        position: &Position,
    ) -> Result<HttpResponse, ApiError> {
        let names: BTreeSet<_> = since.keys().cloned().collect();
        let heads = self.store.heads(&names).await.map_err(store_failed)?;
        let epoch: Option<Epoch> =
            position.epoch.as_deref().map(str::parse).transpose().map_err(|e| ApiError::bad_field("epoch", e))?;
        let limit = position.limit.unwrap_or(PAGE).clamp(1, PAGE);
        let mut pending = Vec::new();
        for head in &heads {
            let after = since[&head.collection];
            check(head, after, epoch)?;
            if after < head.revision {
                pending.push((head, after));
            }
        }
        // Each collection gets an even share of the page, and the one with most to give what the others leave: none waits
        // until another has nothing more to say.
        pending.sort_by_key(|(head, after)| head.revision - after);
        let (mut room, mut budget, mut more) = (limit, PAGE_BYTES, false);
        let mut items = BTreeMap::<&CollectionName, Vec<Change>>::new();
        let mut sharing = pending.len();
        for (head, after) in pending {
            let (share, bytes) = (room.div_ceil(sharing), budget.div_ceil(sharing));
            sharing -= 1;
            let found = self.contiguous(head, after, share, bytes).await?;
            room -= found.len();
            budget = budget.saturating_sub(found.iter().map(size).sum());
            more |= found.last().map_or(after, |last| last.revision) < head.revision;
            items.insert(&head.collection, found);
        }
        let items = items.into_values().flatten().collect();
        Ok(HttpResponse::Ok().json(Feed { heads, items, more }))
    }

    /// Changes of a collection up to its head: none when there is no room, else at least one.
    async fn contiguous(
        &self,
        head: &Head,
        after: Revision,
        room: usize,
        budget: usize,
    ) -> Result<Vec<Change>, ApiError> {
        if room == 0 || budget == 0 {
            return Ok(Vec::new());
        }
        let mut found = self.store.changes(&head.collection, after, room, budget).await.map_err(store_failed)?;
        // The log may have grown since the heads were read; what is newer than them waits for the next page.
        found.retain(|change| change.revision <= head.revision);
        let unbroken = found.iter().zip(after + 1..).all(|(change, revision)| change.revision == revision);
        if found.is_empty() || !unbroken { Err(trimmed(head, after)) } else { Ok(found) }
    }
}

fn size(change: &Change) -> usize {
    change.config_data.as_ref().map_or(0, |config| config.as_str().len())
}

fn check(head: &Head, since: Revision, epoch: Option<Epoch>) -> Result<(), ApiError> {
    if epoch.is_some_and(|epoch| epoch != head.epoch) {
        return Err(ApiError::gone("epoch", format!("The store is in epoch {}", head.epoch)));
    }
    if since > head.revision {
        return Err(ApiError::gone("ahead", format!("{} is at revision {}", head.collection, head.revision)));
    }
    if since + 1 < head.oldest {
        return Err(trimmed(head, since));
    }
    Ok(())
}

fn trimmed(head: &Head, since: Revision) -> ApiError {
    let detail = format!("The log of {} no longer holds revision {}", head.collection, since + 1);
    ApiError::gone("trimmed", detail)
}

fn revision(text: &str) -> Result<Revision, ApiError> {
    text.parse().map_err(|_malformed| ApiError::bad_field("since", "expected a revision: a whole number from 0"))
}
