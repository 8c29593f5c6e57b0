//! The damaged rows that this process knows of: each is logged once, counted, and shown to operators.
//!
//! Reads and the scrub add to it; a pass of the scrub over a collection, or a repair of it, removes
//! what is no longer found. What a reader gets for a [`Verdict`] is decided here, for both stores.
//! Nothing here reads a store.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use contract::{CollectionName, Document, Head, Revision};
use tracing::{error, warn};

use super::integrity::{Damage, DamagedDocument, DamagedRecord, SumMismatch, Verdict};

/// Rows that are remembered. Beyond it a row is neither logged nor counted: the store as a whole is
/// then at fault.
const MAX_ROWS: usize = 1_000;

/// What of a collection is damaged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamagedPart {
    /// Its head.
    Head,
    /// Its rows as a whole: they do not add up to the head.
    Rows,
    /// The record of this revision in the change log.
    Record(Revision),
    /// The row with this key. It may hold any character.
    Row(String),
}

impl fmt::Display for DamagedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("the head"),
            Self::Rows => f.write_str("the rows as a whole"),
            Self::Record(revision) => write!(f, "the record of revision {revision}"),
            Self::Row(key) => write!(f, "the row {key:?}"),
        }
    }
}

/// What becomes of a damaged row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Readers get the truth from the change log.
    FromLog,
    /// Readers of documents do not need it: it is no document, or a record of the change log.
    Ignored,
    /// The change log does not have it: readers get an error that names it.
    Refused,
}

/// Damage by collection and part.
#[derive(Debug, Default)]
pub struct DamageRegister(Mutex<BTreeMap<(CollectionName, DamagedPart), KnownDamage>>);

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
    /// Rows that are no documents, and records.
    pub ignored: usize,
    /// Rows that are refused.
    pub refused: usize,
    /// The first, refused ones first.
    pub example: Option<(CollectionName, DamagedPart)>,
}

impl DamageRegister {
    /// Adds what is damaged, and logs it if it is new. `detail` says what is damaged and what follows.
    pub fn report(
        &self,
        collection: &CollectionName,
        part: DamagedPart,
        outcome: Outcome,
        detail: impl fmt::Display,
    ) {
        let mut rows = self.lock();
        let place = (collection.clone(), part.clone());
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
            Outcome::Refused => error!(%collection, %part, "{part} of {collection}: {detail}"),
            Outcome::FromLog | Outcome::Ignored => {
                warn!(%collection, %part, "{part} of {collection}: {detail}");
            }
        }
    }

    /// Adds a record that is not what a publisher wrote.
    pub fn report_record(&self, damaged: &DamagedRecord) {
        self.report(
            &damaged.collection,
            DamagedPart::Record(damaged.revision),
            Outcome::Ignored,
            format_args!(
                "{damaged}: the feed ends before it, so replicas that need it load the collection, \
                 and it is not published"
            ),
        );
    }

    /// What a reader gets by a verdict on the row with a key. Damage is added.
    ///
    /// # Errors
    /// [`DamagedDocument`] where nothing whole says what the document is.
    pub fn settle(
        &self,
        collection: &CollectionName,
        key: &str,
        verdict: Verdict,
    ) -> Result<Option<Document>, DamagedDocument> {
        let report = |outcome, damage: &Damage, follows| {
            self.report(
                collection,
                DamagedPart::Row(key.to_owned()),
                outcome,
                format_args!("a stored document is damaged ({damage}): {follows}"),
            );
        };
        match verdict {
            Verdict::Whole(document) => Ok(Some(document)),
            Verdict::Absent => Ok(None),
            Verdict::FromLog(document, damage) => {
                report(
                    Outcome::FromLog,
                    &damage,
                    "readers get it from the change log, and the next write or `confcast repair` \
                     makes the row true",
                );
                Ok(Some(document))
            }
            Verdict::DeletedByLog(damage) => {
                report(
                    Outcome::Ignored,
                    &damage,
                    "it was deleted by the change log, and its row is ignored",
                );
                Ok(None)
            }
            Verdict::Unrecoverable(damage) => {
                report(
                    Outcome::Refused,
                    &damage,
                    "the change log does not have its value, so it is refused; see `confcast repair`",
                );
                Err(DamagedDocument {
                    collection: collection.clone(),
                    id: key.to_owned(),
                    damage,
                })
            }
        }
    }

    /// Whether rows of a collection are known to be damaged, or not to add up. A row that fits its
    /// checksum may be an earlier one then, and is compared with the change log.
    pub fn has_damaged_rows(&self, collection: &CollectionName) -> bool {
        let rows = self.lock();
        rows.keys().any(|(of, part)| {
            of == collection && matches!(part, DamagedPart::Rows | DamagedPart::Row(_))
        })
    }

    /// All documents of some collections were read and add up to their heads.
    pub fn add_up(&self, heads: &[Head]) {
        let mut rows = self.lock();
        for head in heads {
            rows.remove(&(head.collection.clone(), DamagedPart::Rows));
        }
    }

    /// The documents that were read of a collection do not add up to its head.
    pub fn report_sum(&self, mismatch: &SumMismatch) {
        self.report(
            &mismatch.collection,
            DamagedPart::Rows,
            Outcome::Refused,
            format_args!("{mismatch}; see `confcast repair`"),
        );
    }

    /// The records of a collection that are known to be damaged.
    pub fn records(&self, collection: &CollectionName) -> Vec<Revision> {
        let rows = self.lock();
        let of_collection = rows.keys().filter(|(of, _part)| of == collection);
        let record = |(_of, part): &(_, DamagedPart)| match part {
            DamagedPart::Record(revision) => Some(*revision),
            _other => None,
        };
        of_collection.filter_map(record).collect()
    }

    /// Removes what was not seen of a collection since `start`, when an examination of its head, of all
    /// rows and of the known [`records`](Self::records) began.
    pub fn end_pass(&self, collection: &CollectionName, start: Instant) {
        self.lock()
            .retain(|(of, _part), known| of != collection || known.last_seen >= start);
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(CollectionName, DamagedPart), KnownDamage>> {
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
        let row = |key: &str| DamagedPart::Row(key.to_owned());
        register.report(&a, row("x"), Outcome::FromLog, "damaged");
        register.report(&b, row("y"), Outcome::Refused, "damaged");
        let start = Instant::now();
        register.report(&a, row("x"), Outcome::FromLog, "damaged");
        register.end_pass(&a, start);
        let summary = register.summary();
        assert_eq!((summary.from_log, summary.refused), (1, 1));
        assert_eq!(summary.example, Some((b.clone(), row("y"))));
        register.end_pass(&b, Instant::now());
        register.end_pass(&a, Instant::now());
        assert_eq!(register.summary(), DamageSummary::default());
    }
}
