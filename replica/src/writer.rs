//! The writer's side: the state machine, and the bookkeeping that tells how far it may be trusted.
//!
//! Nothing here reads a clock or does I/O: the time comes in from outside.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use contract::{CollectionName, Head, Revision};
use state::{Machine, Root};

use crate::{
    ring::Rings,
    view::{GRACE, View},
};

/// Readings that wait to be reached. Older ones could no longer make a replica current.
const MAX_READINGS: usize = 8;

/// More ranges than this beyond the watermark are healed at once: each costs memory, and events
/// alone close few of them.
const MAX_RANGES: usize = 4_096;

/// A replica that nobody confirmed for this many check-in intervals is stale.
const STALE_AFTER_INTERVALS: f64 = 2.5;

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) machine: Machine,
    /// Counts what events changed in unversioned collections: a list that was asked for before is
    /// out of date.
    pub(crate) touched: u64,
    /// See [`View::refused`].
    pub(crate) refused: Option<&'static str>,
    /// See [`View::opened`].
    pub(crate) opened: bool,
    /// See [`View::recalled`].
    pub(crate) recalled: bool,
    /// See [`View::kept`].
    pub(crate) kept: Option<i64>,
    rings: Rings,
    readings: VecDeque<(Instant, Vec<Head>)>,
    confirmed: Option<Instant>,
    lacking: BTreeMap<CollectionName, (Revision, Instant)>,
    stale_after: Duration,
}

impl Writer {
    pub(crate) fn new(collections: &BTreeSet<CollectionName>, check_in: Duration) -> Self {
        Self {
            machine: Machine::new(collections),
            touched: 0,
            refused: None,
            opened: true,
            recalled: false,
            kept: None,
            rings: Rings::default(),
            readings: VecDeque::new(),
            confirmed: None,
            lacking: BTreeMap::new(),
            stale_after: check_in.mul_f64(STALE_AFTER_INTERVALS),
        }
    }

    /// Takes note of heads that were true at `asked`; whether they are in another history than what
    /// is held. Heads of before the clock began confirm nothing.
    pub(crate) fn read(&mut self, asked: Option<Instant>, heads: Vec<Head>) -> bool {
        let epoch = self.machine.root().epoch();
        self.machine.compare(&heads);
        let other = heads.iter().any(|head| Some(head.epoch) != epoch);
        if !other {
            self.refused = None;
            // What an older history said can no longer be reached.
            self.readings
                .retain(|(_asked, heads)| heads.iter().all(|head| Some(head.epoch) == epoch));
            if self.readings.len() == MAX_READINGS {
                self.readings.pop_front();
            }
            self.readings.extend(asked.map(|asked| (asked, heads)));
        }
        other
    }

    /// Notes that everything committed before `asked` is held.
    pub(crate) fn confirm(&mut self, asked: Instant) {
        self.confirmed = self.confirmed.max(Some(asked));
    }

    /// What readers shall see from now on.
    pub(crate) fn view(&mut self, now: Instant) -> View {
        while self
            .readings
            .front()
            .is_some_and(|(_asked, heads)| reached(self.machine.root(), heads))
        {
            if let Some((asked, _heads)) = self.readings.pop_front() {
                self.confirm(asked);
            }
        }
        let landed = self.machine.take_visible();
        self.rings.follow(landed, self.machine.root());
        let root = self.machine.root().clone();
        let old = std::mem::take(&mut self.lacking);
        self.lacking = root
            .collections()
            .filter(|(_name, held)| held.loaded() && held.known() > held.watermark())
            .map(|(name, held)| {
                // The mark stays until the watermark has passed it; only then is the next gap a new
                // one.
                let mark = old
                    .get(name)
                    .filter(|(revision, _since)| *revision > held.watermark());
                let (revision, since) = mark.copied().unwrap_or((held.known(), now));
                let urgent = now
                    .checked_sub(GRACE)
                    .filter(|_then| held.ranges_beyond() > MAX_RANGES);
                (
                    name.clone(),
                    (revision, urgent.map_or(since, |then| then.min(since))),
                )
            })
            .collect();
        View {
            root,
            rings: self.rings.clone(),
            confirmed: self.confirmed,
            lacking: self.lacking.clone(),
            refused: self.refused,
            opened: self.opened,
            recalled: self.recalled,
            kept: self.kept,
            stale_after: self.stale_after,
        }
    }
}

/// Whether a replica has seen everything that these heads name, in every collection it follows.
fn reached(root: &Root, heads: &[Head]) -> bool {
    root.collections().all(|(name, held)| {
        heads.iter().any(|head| {
            head.collection == *name
                && Some(head.epoch) == root.epoch()
                && held.watermark() >= head.revision
        })
    })
}

#[cfg(test)]
mod tests {
    use contract::{
        CanonicalJson, Operation,
        snapshot::{SnapshotEnd, SnapshotStart},
        status::ReplicaState,
    };
    use state::{ReceivedChange, Snapshot};

    use super::*;

    fn head(revision: Revision) -> Head {
        Head {
            revision,
            ..Head::empty(
                "A".parse().expect("a name"),
                "0f86d081-1".parse().expect("an epoch"),
            )
        }
    }

    fn next_epoch() -> contract::Epoch {
        "0f86d081-2".parse().expect("an epoch")
    }

    fn hint(revision: Revision) -> ReceivedChange {
        let Head {
            collection, epoch, ..
        } = head(0);
        let config = CanonicalJson::parse(b"{}").ok();
        let (id, op) = ("x".parse().expect("an id"), Operation::Update);
        ReceivedChange {
            collection,
            id,
            epoch,
            revision,
            op,
            config,
            last_set: 0,
            change_set: None,
        }
    }

    /// A writer that was loaded at revision 7 by a load that was asked for at the returned moment.
    fn loaded() -> (Writer, Instant) {
        let mut writer = Writer::new(
            &BTreeSet::from([head(7).collection]),
            Duration::from_secs(10),
        );
        let asked = Instant::now();
        let generation = writer.machine.begin_load();
        let builder = Snapshot::begin(SnapshotStart {
            epoch: head(7).epoch,
            heads: vec![head(7)],
        });
        let snapshot = builder
            .complete(
                &SnapshotEnd {
                    end: true,
                    count: 0,
                },
                writer.machine.root(),
            )
            .expect("complete");
        writer
            .machine
            .install(generation, snapshot)
            .expect("installed");
        assert!(!writer.read(Some(asked), vec![head(7)]));
        (writer, asked)
    }

    #[test]
    fn it_is_current_for_two_and_a_half_intervals() {
        let (mut writer, asked) = loaded();
        let view = writer.view(asked);
        assert_eq!(
            view.state(asked + Duration::from_secs(25)),
            ReplicaState::Current
        );
        assert_eq!(
            view.state(asked + Duration::from_millis(25_001)),
            ReplicaState::Stale
        );
    }

    #[test]
    fn a_reading_confirms_only_when_it_is_reached() {
        let (mut writer, asked) = loaded();
        let later = asked + Duration::from_secs(20);
        writer.read(Some(later), vec![head(9)]);
        assert_eq!(writer.view(later).confirmed, Some(asked));
        writer.machine.apply(&hint(9));
        assert_eq!(writer.view(later).confirmed, Some(asked));
        writer.machine.apply(&hint(8));
        assert_eq!(writer.view(later).confirmed, Some(later));
    }

    #[test]
    fn it_is_behind_when_the_same_revision_is_missing_for_longer_than_the_grace() {
        let (mut writer, start) = loaded();
        let at = |ms| start + Duration::from_millis(ms);
        writer.machine.apply(&hint(9));
        assert_eq!(writer.view(at(0)).state(at(200)), ReplicaState::Current);
        assert_eq!(writer.view(at(150)).state(at(201)), ReplicaState::Behind);
        // The gap closes and another opens: its own grace begins.
        writer.machine.apply(&hint(8));
        writer.machine.apply(&hint(11));
        assert_eq!(writer.view(at(250)).state(at(400)), ReplicaState::Current);
        assert_eq!(writer.view(at(250)).state(at(451)), ReplicaState::Behind);
    }

    #[test]
    fn a_reading_of_an_older_history_holds_nothing_up() {
        let (mut writer, asked) = loaded();
        writer.read(Some(asked), vec![head(9)]);
        let (generation, newer) = (
            writer.machine.begin_load(),
            Head {
                epoch: next_epoch(),
                ..head(3)
            },
        );
        let builder = Snapshot::begin(SnapshotStart {
            epoch: next_epoch(),
            heads: vec![newer.clone()],
        });
        let snapshot = builder
            .complete(
                &SnapshotEnd {
                    end: true,
                    count: 0,
                },
                writer.machine.root(),
            )
            .expect("complete");
        writer
            .machine
            .install(generation, snapshot)
            .expect("installed");
        let later = asked + Duration::from_secs(20);
        assert!(!writer.read(Some(later), vec![newer]));
        assert_eq!(writer.view(later).confirmed, Some(later));
    }

    #[test]
    fn heads_of_another_history_confirm_nothing() {
        let (mut writer, asked) = loaded();
        let later = asked + Duration::from_secs(20);
        let other = Head {
            epoch: next_epoch(),
            ..head(7)
        };
        assert!(writer.read(Some(later), vec![other]));
        assert_eq!(writer.view(later).confirmed, Some(asked));
    }
}
