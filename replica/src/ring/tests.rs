use std::collections::BTreeSet;

use contract::{
    CanonicalJson, ChangeSet, Digest, Document, Head, Operation, SetPart,
    snapshot::{SnapshotEnd, SnapshotItem, SnapshotStart},
};
use proptest::prelude::*;
use state::{Machine, ReceivedChange, Snapshot};

use super::*;

fn name() -> CollectionName {
    "A".parse().expect("a name")
}

fn epoch(counter: u64) -> Epoch {
    Epoch {
        lineage: 1,
        counter,
    }
}

fn hint(revision: Revision) -> ReceivedChange {
    ReceivedChange {
        collection: name(),
        id: format!("d{}", revision % 7).parse().expect("an id"),
        epoch: epoch(1),
        revision,
        op: if revision.is_multiple_of(5) {
            Operation::Delete
        } else {
            Operation::Update
        },
        config: (!revision.is_multiple_of(5)).then(|| {
            CanonicalJson::parse(format!("{{\"n\":{revision}}}").as_bytes()).expect("json")
        }),
        last_set: 0,
        change_set: None,
    }
}

/// A machine that has loaded a collection with one document at a revision, and its rings.
struct Held {
    machine: Machine,
    rings: Rings,
}

impl Held {
    fn at(revision: Revision) -> Self {
        let mut held = Self {
            machine: Machine::new(&BTreeSet::from([name()])),
            rings: Rings::default(),
        };
        held.install(epoch(1), revision);
        held
    }

    fn install(&mut self, epoch: Epoch, revision: Revision) {
        let config = CanonicalJson::parse(b"{}").expect("json");
        let document = Document::new("loaded".parse().expect("an id"), revision, &config);
        let digest = Digest::default().with(document.id(), revision, document.crc());
        let head = Head {
            revision,
            count: 1,
            digest,
            ..Head::empty(name(), epoch)
        };
        let generation = self.machine.begin_load();
        let mut builder = Snapshot::begin(SnapshotStart {
            epoch,
            heads: vec![head],
        });
        let (id, crc) = (document.id().clone(), document.crc());
        let item = SnapshotItem {
            collection: name(),
            id,
            revision,
            crc,
            config_data: config,
        };
        builder.item(item, self.machine.root()).expect("an item");
        let snapshot = builder
            .complete(
                &SnapshotEnd {
                    end: true,
                    count: 1,
                },
                self.machine.root(),
            )
            .expect("complete");
        self.machine
            .install(generation, snapshot)
            .expect("installed");
        self.follow();
    }

    fn apply(&mut self, hint: &ReceivedChange) {
        self.machine.apply(hint);
        self.follow();
    }

    fn follow(&mut self) {
        let landed = self.machine.take_visible();
        self.rings.follow(landed, self.machine.root());
    }

    fn watermark(&self) -> Revision {
        self.machine
            .root()
            .collection(&name())
            .expect("followed")
            .watermark()
    }

    /// The revisions that can be served, after it was checked that there is no hole up to the
    /// watermark.
    fn revisions(&self) -> Vec<Revision> {
        let ring = self.rings.ring(&name()).expect("a ring");
        let all: Vec<_> = ring
            .after(ring.oldest() - 1)
            .filter_map(|data| data.revision)
            .collect();
        assert_eq!(all, (ring.oldest()..=self.watermark()).collect::<Vec<_>>());
        all
    }
}

#[test]
fn a_change_beyond_a_hole_waits_for_the_watermark() {
    let mut held = Held::at(1);
    assert!(held.revisions().is_empty());
    held.apply(&hint(3));
    held.apply(&hint(4));
    assert!(held.revisions().is_empty());
    held.apply(&hint(2));
    assert_eq!(held.revisions(), [2, 3, 4]);
    let ring = held.rings.ring(&name()).expect("a ring");
    let values: Vec<_> = ring
        .after(2)
        .map(|data| ReceivedChange::from_event(&data))
        .collect();
    assert_eq!(
        values,
        [Some(hint(3)), Some(hint(4))],
        "nothing of them is lost"
    );
}

#[test]
fn what_readers_cannot_see_is_not_in_it() {
    let mut held = Held::at(1);
    let parts = vec![SetPart {
        collection: name(),
        first: 2,
        last: 3,
    }];
    let set = Arc::new(ChangeSet {
        id: "s".to_owned(),
        parts,
    });
    let member = |revision| ReceivedChange {
        change_set: Some(set.clone()),
        ..hint(revision)
    };
    held.apply(&member(2));
    assert!(held.revisions().is_empty());
    held.apply(&member(3));
    assert_eq!(held.revisions(), [2, 3]);
}

#[test]
fn a_load_empties_it_and_what_is_beyond_stays() {
    let mut held = Held::at(1);
    [2, 3, 8, 9]
        .iter()
        .for_each(|revision| held.apply(&hint(*revision)));
    assert_eq!(held.revisions(), [2, 3]);
    held.install(epoch(1), 6);
    assert_eq!((held.revisions(), held.watermark()), (vec![], 6));
    held.apply(&hint(7));
    assert_eq!(held.revisions(), [7, 8, 9]);
    held.install(epoch(2), 5);
    assert_eq!((held.revisions(), held.watermark()), (vec![], 5));
}

/// A change whose value never came, because a newer one of the same document was here, cannot be
/// handed on.
#[test]
fn it_begins_anew_behind_what_it_cannot_tell() {
    let mut held = Held::at(1);
    [2, 11]
        .iter()
        .for_each(|revision| held.apply(&hint(*revision)));
    (3..11).for_each(|revision| {
        held.apply(&ReceivedChange {
            config: hint(revision).config.filter(|_| revision != 4),
            ..hint(revision)
        })
    });
    assert_eq!(held.watermark(), 11);
    assert_eq!(held.revisions(), (5..=11).collect::<Vec<_>>());
}

#[test]
fn it_is_bounded_by_number_and_by_bytes() {
    let mut held = Held::at(1);
    (2..=1_500).for_each(|revision| held.apply(&hint(revision)));
    assert_eq!(held.revisions(), (477..=1_500).collect::<Vec<_>>());
    let large = CanonicalJson::parse(format!("{{\"x\":\"{}\"}}", "x".repeat(4 << 20)).as_bytes())
        .expect("json");
    for revision in 1_501..=1_504 {
        held.apply(&ReceivedChange {
            op: Operation::Update,
            config: Some(large.clone()),
            ..hint(revision)
        });
    }
    assert_eq!(held.revisions(), [1_502, 1_503, 1_504]);
}

proptest! {
    /// Whatever the order, and however often: in the end all changes since the load are there, each as it was.
    #[test]
    fn in_any_order(order in Just((2..=40u64).collect::<Vec<_>>()).prop_shuffle(), repeats in prop::collection::vec(2..=40u64, 0..20)) {
        let mut held = Held::at(1);
        for revision in order.into_iter().chain(repeats) {
            held.apply(&hint(revision));
            held.revisions();
        }
        let ring = held.rings.ring(&name()).expect("a ring");
        let all: Vec<_> = ring.after(1).filter_map(|data| ReceivedChange::from_event(&data)).collect();
        prop_assert_eq!(all, (2..=40).map(hint).collect::<Vec<_>>());
    }
}
