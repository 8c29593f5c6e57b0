//! The cost of parsing: a value into its canonical form, and the data of an event.
//!
//! `cargo bench -p contract`

use std::hint::black_box;

use contract::{CanonicalJson, EventData};
use criterion::{Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, bytes) in [("300 bytes", 300), ("10 KiB", 10 << 10)] {
        parse(&mut criterion, name, &document(bytes));
    }
    event(&mut criterion);
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
