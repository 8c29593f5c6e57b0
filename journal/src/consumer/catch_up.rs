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

    /// As [`Self::catch_up_all`]. The result is the number of aggregates with an event that can never
    /// be stored; `None` when it was stopped.
    pub(super) async fn catch_up_until(
        &self,
        projection: &impl Projection<A>,
        stop: &Stop<'_>,
    ) -> Result<Option<usize>, ProjectionError> {
        let mut cursor = 0_u64;
        let (mut count, mut incomplete) = (0, 0);
        loop {
            if is_stopped(stop) {
                return Ok(None);
            }
            let mut command = cmd("HSCAN");
            command.arg(self.journal.keys().versions()).arg(cursor);
            command.arg("COUNT").arg(IDS);
            let page: (u64, BTreeMap<String, String>) = self.journal.ask(&command).await?;
            // Only this crate writes ids; another text is not an aggregate.
            let ids = page.1.keys().filter_map(|id| id.parse().ok());
            let ids: Vec<AggregateId> = ids.collect();
            incomplete += catch_up(projection, &ids).await?;
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
            incomplete,
            "the projection of the journal is caught up with all aggregates"
        );
        Ok(Some(incomplete))
    }

    /// Tries the aggregates of the dead letters again: this program may read what the one before it
    /// could not. Each letter is tried once in the life of the program: `tried` is the last one.
    ///
    /// A full list has lost letters, so every aggregate is tried then. When all of them are complete
    /// the list is emptied, so the next program need not read them all.
    pub(super) async fn catch_up_dead_letters(
        &self,
        projection: &impl Projection<A>,
        tried: &mut Option<String>,
        stop: &Stop<'_>,
    ) -> Result<(), ProjectionError> {
        let group = &self.group;
        let letters = self.journal.letters_after(group, tried.as_deref()).await?;
        if letters.count < DEAD_LETTERS {
            let ids: Vec<AggregateId> = letters.ids.into_iter().collect();
            catch_up(projection, &ids).await?;
        } else {
            // What another process gives up from now on has a letter that is not removed below.
            self.journal.repeat_letters(group).await?;
            let incomplete = self.catch_up_until(projection, stop).await?;
            let Some(incomplete) = incomplete else {
                return Ok(());
            };
            if let (0, Some(last)) = (incomplete, &letters.last) {
                self.journal.remove_letters(group, last).await?;
            }
        }
        *tried = letters.last;
        Ok(())
    }
}

/// Brings some aggregates up to date. The result is how many have an event that can never be stored.
async fn catch_up<A: Aggregate>(
    projection: &impl Projection<A>,
    ids: &[AggregateId],
) -> Result<usize, ProjectionError> {
    let mut work = Vec::with_capacity(ids.len());
    for id in ids {
        work.push(projection.catch_up(id));
    }
    let work = stream::iter(work).buffer_unordered(AT_ONCE);
    let complete: Vec<bool> = work.try_collect().await?;
    Ok(complete.iter().filter(|complete| !**complete).count())
}
