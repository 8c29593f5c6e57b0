//! Brings a projection up to date from the events of the aggregates, without the stream of all
//! events. Repeating it is harmless.

use std::{collections::BTreeMap, future::pending};

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use redis::cmd;
use tracing::info;

use super::{Stop, delivery::DEAD_LETTERS, is_stopped};
use crate::{Aggregate, AggregateId, Consumer, Projection, ProjectionError};

/// Most ids of aggregates in one page of the list.
const IDS: usize = 256;
/// Aggregates that are brought up to date at the same time.
const AT_ONCE: usize = 16;

impl<A: Aggregate> Consumer<A> {
    /// Brings a projection up to date with every aggregate of the journal.
    ///
    /// # Errors
    /// When the journal or the projection is unavailable.
    pub async fn catch_up_all(
        &self,
        projection: &impl Projection<A>,
    ) -> Result<(), ProjectionError> {
        let never = pending().boxed().shared();
        self.catch_up_until(projection, &never).await.map(drop)
    }

    /// As [`Self::catch_up_all`]; the result is `false` when it was stopped.
    pub(super) async fn catch_up_until(
        &self,
        projection: &impl Projection<A>,
        stop: &Stop<'_>,
    ) -> Result<bool, ProjectionError> {
        let mut cursor = 0_u64;
        let mut count = 0;
        loop {
            if is_stopped(stop) {
                return Ok(false);
            }
            let mut command = cmd("HSCAN");
            command.arg(self.journal.keys().versions()).arg(cursor);
            command.arg("COUNT").arg(IDS);
            let page: (u64, BTreeMap<String, String>) = self.journal.ask(&command).await?;
            // Only this crate writes ids; another text is not an aggregate.
            let ids = page.1.keys().filter_map(|id| id.parse().ok());
            let ids: Vec<AggregateId> = ids.collect();
            catch_up(projection, &ids).await?;
            count += ids.len();
            cursor = page.0;
            if cursor == 0 {
                break;
            }
        }
        info!(
            journal = %self.journal.name(),
            group = %self.group,
            aggregates = count,
            "the projection of the journal is caught up with all aggregates"
        );
        Ok(true)
    }

    /// Tries the aggregates of the dead letters again: this program may read what the one before it
    /// could not. A full list has lost letters, so every aggregate is tried then.
    pub(super) async fn catch_up_dead_letters(
        &self,
        projection: &impl Projection<A>,
        stop: &Stop<'_>,
    ) -> Result<(), ProjectionError> {
        let letters = self.journal.dead_letters(&self.group, DEAD_LETTERS).await?;
        if letters.len() >= DEAD_LETTERS {
            return self.catch_up_until(projection, stop).await.map(drop);
        }
        let fields = letters.into_iter().flat_map(|letter| letter.fields);
        let ids = fields.filter(|(name, _)| name == "id");
        let mut ids: Vec<AggregateId> = ids.filter_map(|(_, id)| id.parse().ok()).collect();
        ids.sort();
        ids.dedup();
        catch_up(projection, &ids).await
    }
}

async fn catch_up<A: Aggregate>(
    projection: &impl Projection<A>,
    ids: &[AggregateId],
) -> Result<(), ProjectionError> {
    let mut work = Vec::with_capacity(ids.len());
    for id in ids {
        work.push(projection.catch_up(id));
    }
    let work = stream::iter(work).buffer_unordered(AT_ONCE);
    work.try_collect::<Vec<()>>().await.map(drop)
}
