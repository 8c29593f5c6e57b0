//! The cost of an event for the writer, and of a read for a reader, by the number of documents.
//!
//! `cargo bench -p state`

use std::{collections::BTreeSet, hint::black_box};

use contract::{
    CanonicalJson, CollectionName, Digest, Document, DocumentId, Epoch, Head, Operation, Revision,
    snapshot,
};
use criterion::{BatchSize, Criterion};
use state::{Decision, Machine, ReceivedChange, Snapshot};

const EPOCH: Epoch = Epoch {
    lineage: 1,
    counter: 1,
};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for documents in [1_000, 100_000] {
        let mut machine = loaded(documents);
        get(&mut criterion, &machine, documents);
        apply(&mut criterion, &mut machine, documents);
    }
    criterion.final_summary();
}

/// Applies the next revision, of another document each time. A reader holds the previous root, as
/// in a replica, so changed nodes are copied.
fn apply(criterion: &mut Criterion, machine: &mut Machine, documents: u64) {
    let (mut revision, mut readers) = (documents, machine.root().clone());
    criterion
        .benchmark_group("Machine::apply, the next revision")
        .bench_function(of(documents), |bench| {
            let next = || {
                revision += 1;
                change(revision, documents)
            };
            let apply = |change: ReceivedChange| {
                assert_eq!(machine.apply(&change), Decision::Applied);
                readers = machine.root().clone();
                machine.take_visible()
            };
            bench.iter_batched(next, apply, BatchSize::SmallInput);
        });
    assert_eq!(
        readers.collection(&name()).map(|held| held.watermark()),
        Some(revision),
        "nothing was left out"
    );
}

fn get(criterion: &mut Criterion, machine: &Machine, documents: u64) {
    let (root, name, mut number) = (machine.root(), name(), 0);
    let ids: Vec<DocumentId> = (0..documents)
        .map(|number| id(scattered(number, documents)))
        .collect();
    criterion
        .benchmark_group("Root::get")
        .bench_function(of(documents), |bench| {
            bench.iter(|| {
                number = (number + 1) % ids.len();
                root.get(&name, black_box(&ids[number]))
                    .expect("it is there")
            });
        });
}

fn of(documents: u64) -> String {
    format!("{documents} documents")
}

fn name() -> CollectionName {
    "ChannelConfiguration".parse().expect("a name")
}

fn id(number: u64) -> DocumentId {
    format!("document-{number:06}").parse().expect("an id")
}

fn config(number: u64) -> CanonicalJson {
    let text = "Greet whoever calls by name. ".repeat(8);
    let json = format!(
        r#"{{"active":true,"limits":{{"perMinute":120,"ratio":0.25}},"number":{number},"text":"{text}"}}"#
    );
    CanonicalJson::parse(json.as_bytes()).expect("JSON")
}

/// Spreads successive changes over the order of ids: 7,919 is a prime that divides no number of
/// documents here.
fn scattered(number: u64, documents: u64) -> u64 {
    number * 7_919 % documents
}

fn change(revision: Revision, documents: u64) -> ReceivedChange {
    ReceivedChange {
        collection: name(),
        id: id(scattered(revision, documents)),
        epoch: EPOCH,
        revision,
        op: Operation::Update,
        config: Some(config(revision)),
        last_set: 0,
        change_set: None,
        proof: None,
        origin: Default::default(),
    }
}

/// A machine that has loaded this number of documents, one per revision.
fn loaded(documents: u64) -> Machine {
    let item = |number| {
        let document = Document::new(id(number), number + 1, &config(number));
        snapshot::SnapshotItem {
            collection: name(),
            crc: document.crc(),
            document,
        }
    };
    let items: Vec<snapshot::SnapshotItem> = (0..documents).map(item).collect();
    let digest = items.iter().fold(Digest::default(), |digest, item| {
        digest.with(item.document.id(), item.document.revision(), item.crc)
    });
    let head = Head {
        revision: documents,
        count: documents,
        digest,
        ..Head::empty(name(), EPOCH)
    };
    let mut machine = Machine::new(&BTreeSet::from([name()]));
    let generation = machine.begin_load();
    let mut builder = Snapshot::begin(snapshot::SnapshotStart {
        epoch: EPOCH,
        heads: vec![head],
    });
    for item in items {
        builder.item(item, machine.root()).expect("an item");
    }
    let snapshot = builder
        .complete(
            &snapshot::SnapshotEnd {
                end: true,
                count: documents,
            },
            machine.root(),
        )
        .expect("complete");
    machine.install(generation, snapshot).expect("installed");
    machine.take_visible();
    machine
}
