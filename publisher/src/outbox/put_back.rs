//! Whether a dump is being put back into the database, table after table, while this publisher runs.
//! Retention waits meanwhile: a log without the names of the snapshots that need it looks as if it
//! could be trimmed. Nothing here changes the store or declares an epoch.

use std::fmt;

use contract::{CollectionName, Epoch};

use crate::store::{
    Store,
    integrity::is_damage,
    log_end::{self, LogEnd},
};

/// Rounds of retention that are left out once another epoch was declared. It is declared when documents,
/// heads and logs are there; the rest of a dump may follow.
const ROUNDS_AFTER: u32 = 3;

/// What was seen of the store so far.
#[derive(Debug, Default)]
pub(super) struct PutBack {
    epoch: Option<Epoch>,
    rounds_left: u32,
}

/// Why retention waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// Heads are older than those that this publisher has seen committed.
    OlderHeads,
    /// The log of this collection does not end where its head is.
    LogEnd(CollectionName),
    /// Another epoch was declared a moment ago.
    NewEpoch(Epoch),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OlderHeads => f.write_str("heads are older than what was committed before"),
            Self::LogEnd(collection) => {
                write!(f, "the log of {collection} does not end at its head")
            }
            Self::NewEpoch(epoch) => write!(f, "the epoch {epoch} was declared"),
        }
    }
}

impl PutBack {
    /// Looks at the store, once in each round. `None` where retention may go on.
    ///
    /// # Errors
    /// When the store cannot be read, or lacks a head.
    pub(super) async fn look(&mut self, store: &Store) -> anyhow::Result<Option<Reason>> {
        let Some(committed) = store.committed_heads() else {
            // One process owns the store, and nothing else can put it back.
            return Ok(None);
        };
        // Before the read: what is committed during it need not be visible to it.
        let known = committed.positions();
        let heads = store.heads(&store.policy().collections.all()).await?;
        if committed.regressed(&known, &heads) {
            return Ok(Some(Reason::OlderHeads));
        }
        for head in &heads {
            match log_end::of(store, head).await {
                Ok(LogEnd::AtHead) => {}
                Ok(LogEnd::Elsewhere) => return Ok(Some(Reason::LogEnd(head.collection.clone()))),
                // Damage of one log decides nothing for the others.
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let epoch = heads.first().map(|head| head.epoch);
        Ok(epoch.and_then(|epoch| self.after(epoch)))
    }

    /// Whether the epoch is new, for [`ROUNDS_AFTER`] rounds. The first one that is seen is not.
    fn after(&mut self, epoch: Epoch) -> Option<Reason> {
        let before = self.epoch.replace(epoch);
        if before.is_some_and(|before| before != epoch) {
            self.rounds_left = ROUNDS_AFTER;
        }
        self.rounds_left = self.rounds_left.checked_sub(1)?;
        Some(Reason::NewEpoch(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_waits_for_some_rounds_after_another_epoch() {
        let epoch = |counter| Epoch {
            lineage: 1,
            counter,
        };
        let mut seen = PutBack::default();
        assert_eq!(seen.after(epoch(1)), None, "the first one is no other");
        for _round in 0..ROUNDS_AFTER {
            assert_eq!(seen.after(epoch(2)), Some(Reason::NewEpoch(epoch(2))));
        }
        assert_eq!(seen.after(epoch(2)), None);
        assert!(seen.after(epoch(3)).is_some() && seen.after(epoch(4)).is_some());
    }
}
