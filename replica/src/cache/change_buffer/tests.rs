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

fn change(revision: Revision) -> ReceivedChange {
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
        proof: None,
        origin: Default::default(),
    }
}

/// A machine that has loaded a collection with one document at a revision, and its change buffers.
struct Fixture {
    machine: Machine,
    buffers: ChangeBuffers,
}

impl Fixture {
    fn at(revision: Revision) -> Self {
        let mut fixture = Self {
            machine: Machine::new(&BTreeSet::from([name()])),
            buffers: ChangeBuffers::default(),
        };
        fixture.install(epoch(1), revision);
        fixture
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
        let item = SnapshotItem {
            collection: name(),
            crc: document.crc(),
            document,
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

    fn apply(&mut self, change: &ReceivedChange) {
        self.machine.apply(change);
        self.follow();
    }

    fn follow(&mut self) {
        let visible = self.machine.take_visible();
        self.buffers.update(visible, self.machine.root());
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
        let buffer = self.buffers.buffer(&name()).expect("a buffer");
        let all: Vec<_> = buffer
            .after(buffer.oldest() - 1)
            .filter_map(|data| data.revision)
            .collect();
        assert_eq!(
            all,
            (buffer.oldest()..=self.watermark()).collect::<Vec<_>>()
        );
        all
    }
}

#[test]
fn a_change_beyond_a_hole_waits_for_the_watermark() {
    let mut fixture = Fixture::at(1);
    assert!(fixture.revisions().is_empty());
    fixture.apply(&change(3));
    fixture.apply(&change(4));
    assert!(fixture.revisions().is_empty());
    fixture.apply(&change(2));
    assert_eq!(fixture.revisions(), [2, 3, 4]);
    let buffer = fixture.buffers.buffer(&name()).expect("a buffer");
    let values: Vec<_> = buffer
        .after(2)
        .map(|data| ReceivedChange::from_event(&data))
        .collect();
    assert_eq!(
        values,
        [Some(change(3)), Some(change(4))],
        "nothing of the changes is lost"
    );
}

#[test]
fn an_incomplete_change_set_is_not_in_the_buffer() {
    let mut fixture = Fixture::at(1);
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
        ..change(revision)
    };
    fixture.apply(&member(2));
    assert!(fixture.revisions().is_empty());
    fixture.apply(&member(3));
    assert_eq!(fixture.revisions(), [2, 3]);
}

#[test]
fn a_load_empties_the_buffer_and_keeps_what_is_out_of_order() {
    let mut fixture = Fixture::at(1);
    [2, 3, 8, 9]
        .iter()
        .for_each(|revision| fixture.apply(&change(*revision)));
    assert_eq!(fixture.revisions(), [2, 3]);
    fixture.install(epoch(1), 6);
    assert_eq!((fixture.revisions(), fixture.watermark()), (vec![], 6));
    fixture.apply(&change(7));
    assert_eq!(fixture.revisions(), [7, 8, 9]);
    fixture.install(epoch(2), 5);
    assert_eq!((fixture.revisions(), fixture.watermark()), (vec![], 5));
}

/// A change whose value was never received, because a newer one of the same document was here, cannot
/// be passed on.
#[test]
fn the_buffer_starts_again_behind_a_change_without_a_value() {
    let mut fixture = Fixture::at(1);
    [2, 11]
        .iter()
        .for_each(|revision| fixture.apply(&change(*revision)));
    (3..11).for_each(|revision| {
        fixture.apply(&ReceivedChange {
            config: change(revision).config.filter(|_| revision != 4),
            ..change(revision)
        })
    });
    assert_eq!(fixture.watermark(), 11);
    assert_eq!(fixture.revisions(), (5..=11).collect::<Vec<_>>());
}

#[test]
fn the_buffer_is_bounded_by_number_and_by_bytes() {
    let mut fixture = Fixture::at(1);
    (2..=1_500).for_each(|revision| fixture.apply(&change(revision)));
    assert_eq!(fixture.revisions(), (477..=1_500).collect::<Vec<_>>());
    let large = CanonicalJson::parse(format!("{{\"x\":\"{}\"}}", "x".repeat(4 << 20)).as_bytes())
        .expect("json");
    for revision in 1_501..=1_504 {
        fixture.apply(&ReceivedChange {
            op: Operation::Update,
            config: Some(large.clone()),
            ..change(revision)
        });
    }
    assert_eq!(fixture.revisions(), [1_502, 1_503, 1_504]);
}

proptest! {
    /// In any order and with repeats: in the end all changes since the load are there, each as it was received.
    #[test]
    fn changes_in_any_order_all_end_in_the_buffer(order in Just((2..=40u64).collect::<Vec<_>>()).prop_shuffle(), repeats in prop::collection::vec(2..=40u64, 0..20)) {
        let mut fixture = Fixture::at(1);
        for revision in order.into_iter().chain(repeats) {
            fixture.apply(&change(revision));
            fixture.revisions();
        }
        let buffer = fixture.buffers.buffer(&name()).expect("a buffer");
        let all: Vec<_> = buffer.after(1).filter_map(|data| ReceivedChange::from_event(&data)).collect();
        prop_assert_eq!(all, (2..=40).map(change).collect::<Vec<_>>());
    }
}
