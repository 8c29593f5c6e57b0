//! The cost of a proof: made once for each change and each head, and checked when a replica reports
//! more than the store has.
//!
//! `cargo bench -p publisher`

use std::hint::black_box;

use contract::{CollectionName, Crc, Epoch};
use criterion::Criterion;
use publisher::bench_support::StoreSecret;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let secret = StoreSecret::generate();
    let collection: CollectionName = "ChannelConfiguration".parse().expect("a name");
    let epoch: Epoch = "0f86d081-1748000000000".parse().expect("an epoch");
    let crc = Some(Crc(0x00c0_ffee));
    let proof = secret.prove(epoch, &collection, 4_711, crc);
    let mut group = criterion.benchmark_group("proof");
    group.bench_function("made", |bench| {
        bench.iter(|| secret.prove(epoch, &collection, black_box(4_711), crc));
    });
    for (name, revision) in [("checked, valid", 4_711), ("checked, wrong", 4_712)] {
        group.bench_function(name, |bench| {
            bench.iter(|| secret.verifies(epoch, &collection, black_box(revision), &proof));
        });
    }
    group.finish();
    criterion.final_summary();
}
