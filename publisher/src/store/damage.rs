//! The damaged rows that this process knows of: each is logged once, counted, and shown to operators.
//!
//! Reads and the scrub add to it; a pass of the scrub over a collection removes what it no longer
//! finds. Nothing here reads a store or decides what is true of a row.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use contract::CollectionName;
use tracing::{error, warn};

/// Rows that are remembered. Beyond it a row is neither logged nor counted: the store as a whole is
/// then at fault.
const MAX_ROWS: usize = 1_000;

/// What becomes of a damaged row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Readers get the truth from the change log.
    FromLog,
    /// It is no document, and readers do not see it.
    Ignored,
    /// The change log does not have it: readers get an error that names it.
    Refused,
}

/// Damaged rows by collection and key. The key of a head or of a whole collection is empty.
#[derive(Debug, Default)]
pub struct DamageRegister(Mutex<BTreeMap<(CollectionName, String), KnownDamage>>);

#[derive(Debug)]
struct KnownDamage {
    outcome: Outcome,
    last_seen: Instant,
}

/// How many damaged rows are known, and one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DamageSummary {
    /// Rows whose document is taken from the change log.
    pub from_log: usize,
    /// Rows that are no documents.
    pub ignored: usize,
    /// Rows that are refused.
    pub refused: usize,
    /// Collection and key of the first, refused ones first.
    pub example: Option<(CollectionName, String)>,
}

impl DamageRegister {
    /// Adds a damaged row, and logs it if it is new. `detail` says what is damaged and what follows.
    pub fn report(
        &self,
        collection: &CollectionName,
        key: &str,
        outcome: Outcome,
        detail: impl std::fmt::Display,
    ) {
        let mut rows = self.lock();
        let place = (collection.clone(), key.to_owned());
        let last_seen = Instant::now();
        let full = rows.len() >= MAX_ROWS;
        if let Some(known) = rows.get_mut(&place) {
            known.last_seen = last_seen;
            if known.outcome == outcome {
                return;
            }
            known.outcome = outcome;
        } else if full {
            return;
        } else {
            rows.insert(place, KnownDamage { outcome, last_seen });
        }
        drop(rows);
        match outcome {
            Outcome::Refused => error!(%collection, id = ?key, "{detail}"),
            Outcome::FromLog | Outcome::Ignored => warn!(%collection, id = ?key, "{detail}"),
        }
    }

    /// Removes the rows of a collection that were not seen since `start`, when a pass over all of its
    /// rows began.
    pub fn end_pass(&self, collection: &CollectionName, start: Instant) {
        self.lock()
            .retain(|(of, _key), known| of != collection || known.last_seen >= start);
    }

    /// What is known now.
    pub fn summary(&self) -> DamageSummary {
        let rows = self.lock();
        let count = |outcome| rows.values().filter(|row| row.outcome == outcome).count();
        let refused = rows
            .iter()
            .find(|(_place, row)| row.outcome == Outcome::Refused);
        DamageSummary {
            from_log: count(Outcome::FromLog),
            ignored: count(Outcome::Ignored),
            refused: count(Outcome::Refused),
            example: refused
                .or_else(|| rows.first_key_value())
                .map(|(place, _row)| place.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(CollectionName, String), KnownDamage>> {
        // No code that holds the lock leaves the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_known_until_a_pass_does_not_find_it() {
        let register = DamageRegister::default();
        let [a, b]: [CollectionName; 2] = ["A", "B"].map(|name| name.parse().expect("a name"));
        register.report(&a, "x", Outcome::FromLog, "damaged");
        register.report(&b, "y", Outcome::Refused, "damaged");
        let start = Instant::now();
        register.report(&a, "x", Outcome::FromLog, "damaged");
        register.end_pass(&a, start);
        let summary = register.summary();
        assert_eq!((summary.from_log, summary.refused), (1, 1));
        assert_eq!(summary.example, Some((b.clone(), "y".to_owned())));
        register.end_pass(&b, Instant::now());
        register.end_pass(&a, Instant::now());
        assert_eq!(register.summary(), DamageSummary::default());
    }
}
