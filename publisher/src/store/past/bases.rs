//! Base records: what retention keeps of the records that it removes from the change log. Pure.
//!
//! For each document the newest record at or before the end of what was removed is kept, and for each
//! revision that a named snapshot pins the newest at or before that. A deletion is kept only where an
//! older record of its document is kept, because without one the document did not exist.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use contract::{
    CollectionName, Digest, Epoch, Head, Revision,
    named_snapshot::{NamedSnapshot, SnapshotCollection},
};
use serde::{Deserialize, Serialize};

use crate::store::past::PastPoint;

/// Gaps that are remembered one by one. Beyond it two of them become one.
const MAX_GAPS: usize = 16;

/// What the base records of a collection cover. A collection without one was never trimmed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// Each record up to this revision that a state needs is a base record.
    pub covered: Revision,
    /// Number of documents at `covered`.
    pub count: u64,
    /// Digest over them.
    pub digest: Digest,
    /// When `covered` was committed.
    pub time: Option<DateTime<Utc>>,
    /// The epoch of `covered`.
    pub epoch: Option<Epoch>,
    /// No state before this revision is kept, except what is pinned. It is above `covered` after
    /// records were lost: until each document with a lost record has a newer one.
    #[serde(default)]
    pub complete: Revision,
    /// Ranges of states that were lost, both ends not included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<(Revision, Revision)>,
    /// The pinned revisions that base records were kept for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pins: BTreeSet<Revision>,
    /// Whether there may be base records that no state needs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unswept: bool,
}

impl Coverage {
    /// Whether the state at a revision was lost.
    pub fn lacks(&self, revision: Revision) -> bool {
        let mut gaps = self.gaps.iter();
        gaps.any(|(before, after)| (before + 1..*after).contains(&revision))
    }

    /// The state at `covered`.
    pub fn point(&self, head: &Head) -> PastPoint {
        PastPoint {
            collection: head.collection.clone(),
            revision: self.covered,
            count: self.count,
            digest: self.digest,
            epoch: self.epoch.unwrap_or(head.epoch),
            time: self.time,
        }
    }

    /// After base records were made of all records up to a point.
    #[must_use]
    pub fn advanced(&self, to: &PastPoint) -> Self {
        Self {
            covered: to.revision,
            count: to.count,
            digest: to.digest,
            time: to.time,
            epoch: Some(to.epoch),
            ..self.clone()
        }
    }

    /// After records up to `lost` were removed without base records, and base records were made of
    /// the documents. Nothing before `complete` is exact. `state` is the one at `lost`, if it is known.
    #[must_use]
    pub fn after_loss(
        &self,
        lost: Revision,
        complete: Revision,
        state: Option<&PastPoint>,
    ) -> Self {
        // Count and digest of the state at `lost` are known only of the head.
        let first_known = if state.is_some() { lost } else { lost + 1 };
        let complete = complete.max(first_known);
        let mut gaps = self.gaps.clone();
        gaps.push((self.covered, complete));
        if gaps.len() > MAX_GAPS {
            // What was between the two counts as lost.
            let second = gaps.remove(1);
            gaps[0].1 = second.1;
        }
        let lost = Self {
            covered: lost,
            ..Self::default()
        };
        let coverage = state.map_or_else(|| lost.clone(), |state| lost.advanced(state));
        Self {
            complete,
            gaps,
            pins: self.pins.clone(),
            ..coverage
        }
    }
}

/// The state of a collection in a named snapshot.
pub fn pin(of: &SnapshotCollection, time: DateTime<Utc>) -> PastPoint {
    PastPoint {
        collection: of.collection.clone(),
        revision: of.revision,
        count: of.count,
        digest: of.digest,
        epoch: of.epoch,
        time: Some(time),
    }
}

/// The states of a collection that named snapshots pin.
pub fn pins_of(snapshots: &[NamedSnapshot], collection: &CollectionName) -> Vec<PastPoint> {
    let pins = snapshots.iter().flat_map(|snapshot| {
        let collections = snapshot.collections.iter();
        collections.map(|of| pin(of, snapshot.time))
    });
    pins.filter(|pin| pin.collection == *collection).collect()
}

/// Which records of one document have to be kept. `records` are all that are known of it up to
/// `covered`, each with whether it is a deletion.
pub fn needed(
    records: &BTreeMap<Revision, bool>,
    pins: &BTreeSet<Revision>,
    covered: Revision,
) -> BTreeSet<Revision> {
    let points = pins.iter().copied().chain([covered]);
    let newest_at = points.filter_map(|point| records.range(..=point).next_back());
    let newest_at: BTreeMap<_, _> = newest_at.collect();
    newest_at
        .into_iter()
        .skip_while(|(_revision, deleted)| **deleted)
        .map(|(revision, _deleted)| *revision)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_at_each_pin_and_at_the_end_is_needed() {
        for (records, pins, covered, expected) in [
            (
                &[(1, false), (5, false), (9, false)][..],
                &[][..],
                9,
                &[9][..],
            ),
            (
                &[(1, false), (5, false), (9, false)],
                &[5, 6, 7],
                9,
                &[5, 9],
            ),
            (&[(1, false), (5, true)], &[], 9, &[]),
            (&[(1, false), (5, true)], &[3], 9, &[1, 5]),
            (&[(1, false), (5, true), (7, false)], &[6], 9, &[7]),
            (&[(1, false), (5, true), (7, false)], &[2, 6], 9, &[1, 5, 7]),
            (&[(4, true)], &[5], 9, &[]),
        ] {
            let records = records.iter().copied().collect();
            let kept = needed(&records, &pins.iter().copied().collect(), covered);
            assert_eq!(
                kept,
                expected.iter().copied().collect(),
                "{records:?} {pins:?}"
            );
        }
    }

    #[test]
    fn what_was_lost_is_not_kept_however_often_records_are_lost() {
        let mut coverage = Coverage::default();
        for round in 1..=40 {
            coverage = coverage.after_loss(round * 10 + 5, 0, None);
            coverage.covered = round * 10 + 9;
        }
        assert_eq!(coverage.gaps.len(), MAX_GAPS);
        for round in 1..=40 {
            assert!(coverage.lacks(round * 10 + 2), "{round}");
        }
        assert!(!coverage.lacks(409) && !coverage.lacks(399));
    }
}
