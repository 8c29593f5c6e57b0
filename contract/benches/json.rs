//! The cost of parsing: a value into its canonical form, and the data of an event; and of its signature.
//!
//! `cargo bench -p contract`

use std::hint::black_box;

use contract::{CanonicalJson, Change, EventData, signature::SigningKey};
use criterion::{Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, bytes) in [("300 bytes", 300), ("10 KiB", 10 << 10)] {
        parse(&mut criterion, name, &document(bytes));
    }
    event(&mut criterion);
    signature(&mut criterion);
    criterion.final_summary();
}

/// Members out of order, as people write them, numbers of both kinds, and text with escapes.
fn document(bytes: usize) -> String {
    let member = r#"{"voice":"nova","active":true,"limits":{"ratio":0.25,"perMinute":120},"greeting":"Hello,\n\"you\" there"}"#;
    let steps = vec![member; bytes.div_ceil(member.len() + 1)].join(",");
    format!(r#"{{"steps":[{steps}],"name":"whatsapp"}}"#)
}

fn parse(criterion: &mut Criterion, name: &str, json: &str) {
    let mut group = criterion.benchmark_group("CanonicalJson::parse");
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function(name, |bench| {
        bench.iter(|| CanonicalJson::parse(black_box(json.as_bytes())).expect("JSON"))
    });
    group.finish();
}

/// Event data with every member that a publisher of this project sends.
fn event(criterion: &mut Criterion) {
    let config = CanonicalJson::parse(document(300).as_bytes()).expect("JSON");
    let text = format!(
        r#"{{"collection":"ChannelConfiguration","op":"Update","id":"whatsapp","configData":{},"metadata":{{"ttlInSeconds":"60"}},
        "pubSubName":"pubsub-config","crc":"{}","revision":4711,"epoch":"0f86d081-1","lastSet":4000,"correlationId":"order-66",
        "userId":"ada","organisationId":"hectare"}}"#,
        config.as_str(),
        config.crc()
    );
    let mut group = criterion.benchmark_group("EventData");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("from text", |bench| {
        bench.iter(|| serde_json::from_str::<EventData>(black_box(&text)).expect("an event"));
    });
    group.finish();
}

/// What a signature adds to an event at its publisher, and at each replica.
fn signature(criterion: &mut Criterion) {
    let key = SigningKey::from_seed(&[7; 32]);
    let keys = key.public();
    let mut group = criterion.benchmark_group("EventData");
    for (name, bytes) in [("300 bytes", 300), ("10 KiB", 10 << 10)] {
        let value = CanonicalJson::parse(document(bytes).as_bytes()).expect("JSON");
        let text = format!(
            r#"{{"collection":"ChannelConfiguration","op":"Update","id":"whatsapp","configData":{},"revision":4711,
            "epoch":"0f86d081-1","lastSet":4000,"time":"2026-11-28T09:00:00Z","count":7,"digest":"0000000000000000"}}"#,
            value.as_str()
        );
        let change: Change = serde_json::from_str(&text).expect("a change");
        let data = EventData::new(&change, 48 << 10);
        group.bench_function(format!("sign, {name}"), |bench| {
            bench.iter(|| data.clone().signed(black_box(&change), &key));
        });
        let signed = data.signed(&change, &key);
        group.bench_function(format!("verify, {name}"), |bench| {
            bench.iter(|| black_box(&signed).verify(&keys).expect("signed"));
        });
    }
    group.finish();
}
