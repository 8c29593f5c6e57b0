//! A replica that has the public keys of its publisher: what is signed is applied, what is not
//! changes nothing and costs one check-in in an interval, whatever it says and however often.

use contract::{
    ChangeSet, SetPart,
    fleet::IntakeFault,
    signature::{PublicKeys, SigningKey},
};

use super::{
    claims::{Publisher, watermark},
    *,
};
use crate::EventKeys;

fn key(byte: u8) -> SigningKey {
    SigningKey::from_seed(&[byte; 32])
}

/// Runs `test` with a replica that takes the signatures of these keys.
async fn with(publisher: &Arc<Publisher>, keys: PublicKeys, test: impl AsyncFnOnce(Replica)) {
    let answers = Arc::clone(publisher);
    with_listener(
        move |path, body| answers.answer(path, body),
        async |url| {
            let config = Config {
                event_keys: Some(EventKeys::fixed(keys)),
                ..settings(vec![url])
            };
            let replica = Replica::new(config).expect("a client");
            let running = replica.clone();
            following(&running, async {
                eventually("loaded", || replica.view().root().loaded()).await;
                eventually("checked in", || publisher.reported().is_some()).await;
                test(replica).await;
            })
            .await;
        },
    )
    .await;
}

/// The event of a change, signed.
fn signed(change: &Change, key: &SigningKey, data_limit: usize) -> contract::EventData {
    contract::EventData::new(change, data_limit).signed(change, key)
}

fn update(text: &str, revision: u64) -> Change {
    change(text, revision, Some(json!({"v": revision})))
}

async fn take(replica: &Replica, data: &contract::EventData) -> EventOutcome {
    let text = serde_json::to_string(data).expect("json");
    replica.receive_text(&text, None).await
}

fn reason(outcome: EventOutcome) -> &'static str {
    match outcome {
        EventOutcome::Drop { reason, .. } => reason,
        other => panic!("not dropped: {other:?}"),
    }
}

#[tokio::test]
async fn a_signed_event_is_applied_by_each_way_of_reading_it() {
    let publisher = Publisher::at(0);
    // Two keys, as during a rotation.
    let keys = key(1).public().with(&key(2).public());
    with(&publisher, keys, async |replica| {
        let first = update("x", 1);
        assert_eq!(
            take(&replica, &signed(&first, &key(1), 1_000)).await,
            EventOutcome::Success
        );
        let second = signed(&update("x", 2), &key(2), 1_000);
        let value = serde_json::to_value(&second).expect("json");
        assert_eq!(replica.receive(value, None).await, EventOutcome::Success);
        let third = signed(&update("y", 3), &key(2), 1_000);
        assert_eq!(
            replica.receive_event(third, None).await,
            EventOutcome::Success
        );
        assert_eq!(
            (held(&replica, "x").as_deref(), watermark(&replica)),
            (Some(r#"{"v":2}"#), 3)
        );
        let status = replica.status();
        assert_eq!((status.events.applied, status.events.dropped), (3, 0));
        assert_eq!(status.event_keys, [key(1).id(), key(2).id()]);
    })
    .await;
}

/// What intermediaries add or write in another way is not signed.
#[tokio::test]
async fn another_encoding_of_the_same_event_is_applied() {
    let publisher = Publisher::at(0);
    with(&publisher, key(1).public(), async |replica| {
        let mut data = serde_json::to_value(signed(&update("x", 1), &key(1), 1_000)).expect("json");
        data["metadata"] = json!({"ttlInSeconds": "60"});
        data["pubSubName"] = json!("other");
        data["configData"] = json!({"v": 1.0});
        data["added"] = json!([1]);
        assert_eq!(replica.receive(data, None).await, EventOutcome::Success);
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":1}"#));
    })
    .await;
}

#[tokio::test]
async fn the_value_that_a_signed_event_omits_is_fetched() {
    let publisher = Publisher::at(0);
    with(&publisher, key(1).public(), async |replica| {
        publisher.revision.store(1, Ordering::Relaxed);
        let change = update("x", 1);
        let omitted = signed(&change, &key(1), 0);
        assert!(omitted.config_data.is_none() && omitted.config_data_hash.is_some());
        assert_eq!(take(&replica, &omitted).await, EventOutcome::Success);
        // The log of this publisher has a deletion there.
        eventually("fetched", || counts(&replica).fetched == 1).await;
        assert_eq!(counts(&replica).dropped, 0);
        // One that leaves out the value of an event is not that event.
        let mut cut = signed(&update("x", 2), &key(1), 1_000);
        cut.config_data = None;
        assert_eq!(reason(take(&replica, &cut).await), "wrong-signature");
    })
    .await;
}

/// Everything that decides, changed by a client of the broker: dropped, and asked for once.
#[tokio::test]
async fn events_that_no_publisher_has_signed_change_nothing_and_cost_one_check_in() {
    let publisher = Publisher::at(7);
    with(&publisher, key(1).public(), async |replica| {
        let before = publisher.check_ins.load(Ordering::Relaxed);
        let true_one = signed(&update("x", 8), &key(1), 1_000);
        let forge = |change: &dyn Fn(&mut contract::EventData)| {
            let mut data = true_one.clone();
            change(&mut data);
            data
        };
        let set = |first, last| {
            Some(ChangeSet {
                id: "s".into(),
                parts: vec![SetPart {
                    collection: name("A"),
                    first,
                    last,
                }],
            })
        };
        let value = |text: &str| Some(CanonicalJson::parse(text.as_bytes()).expect("json"));
        let forged = [
            forge(&|data| data.revision = Some(u64::MAX)),
            forge(&|data| data.revision = Some(9)),
            forge(&|data| data.epoch = Some("0f86d081-2".parse().expect("an epoch"))),
            forge(&|data| data.epoch = Some("ffffffff-1".parse().expect("an epoch"))),
            forge(&|data| data.last_set = Some(u64::MAX)),
            forge(&|data| data.change_set = set(8, u64::MAX)),
            forge(&|data| data.change_set = set(8, 8)),
            forge(&|data| data.id = id("y")),
            forge(&|data| data.op = Operation::Delete),
            forge(&|data| data.config_data = value(r#"{"v":"forged"}"#)),
            forge(&|data| data.config_data = None),
            forge(&|data| data.proof = Some("1".repeat(40).parse().expect("a proof"))),
        ];
        for data in &forged {
            assert_eq!(
                reason(take(&replica, data).await),
                "wrong-signature",
                "{data:?}"
            );
        }
        let unsigned = forge(&|data| data.signature = None);
        let unknown = signed(&update("x", 8), &key(2), 1_000);
        let unversioned = forge(&|data| (data.revision, data.epoch) = (None, None));
        for _repeated in 0..500 {
            assert_eq!(reason(take(&replica, &unsigned).await), "unsigned");
            assert_eq!(reason(take(&replica, &unknown).await), "unknown-key");
            assert_eq!(reason(take(&replica, &unversioned).await), "unsigned");
        }
        let status = replica.status();
        let EventCounts {
            applied,
            unsigned,
            unknown_key,
            wrong_signature,
            dropped,
            ..
        } = status.events;
        assert_eq!(
            (applied, unsigned, unknown_key, wrong_signature, dropped),
            (0, 1_000, 500, 12, 1_512)
        );
        let row = &status.collections[0];
        assert_eq!(
            (row.revision, row.known, row.staged, row.count),
            (7, 7, 0, 0)
        );
        assert!(
            status.drops.len() <= 4,
            "a flood evicts other drops: {:?}",
            status.drops
        );
        eventually("asked", || {
            publisher.check_ins.load(Ordering::Relaxed) > before
        })
        .await;
        // A change that was only announced wrongly is there after it.
        publisher.revision.store(8, Ordering::Relaxed);
        assert_eq!(take(&replica, &true_one).await, EventOutcome::Success);
        assert_eq!(held(&replica, "x").as_deref(), Some(r#"{"v":8}"#));
        let check_ins = publisher.check_ins.load(Ordering::Relaxed) - before;
        assert!(check_ins <= 2, "{check_ins} check-ins for 1,512 events");
    })
    .await;
}

async fn changed(replica: &Replica, collection: &str) -> EventOutcome {
    replica.receive_id(&name(collection), &id("x"), None).await
}

/// An id-only event has no signature. No publisher sends one of a collection with whole events.
#[tokio::test]
async fn an_id_only_event_of_a_collection_that_has_none_is_not_proven_and_reads_nothing() {
    let publisher = Publisher::with_id_only(7, &["B"]);
    with(&publisher, key(1).public(), async |replica| {
        // The answer was sent, and may not have arrived.
        let told = || replica.check_ins().id_only.excludes(&name("A"));
        eventually("told", told).await;
        let before = publisher.check_ins.load(Ordering::Relaxed);
        for _forged in 0..500 {
            assert_eq!(reason(changed(&replica, "A").await), "unsigned");
        }
        assert_eq!(changed(&replica, "B").await, EventOutcome::Success);
        eventually("asked", || {
            publisher.check_ins.load(Ordering::Relaxed) > before
        })
        .await;
        assert_eq!(publisher.pages_of("A"), 0);
        assert_eq!(counts(&replica).unsigned, 500);
        let check_ins = publisher.check_ins.load(Ordering::Relaxed) - before;
        assert!(check_ins <= 2, "{check_ins} check-ins for 500 events");
    })
    .await;
}

/// The figure of docs/operations/signatures.md.
#[tokio::test]
async fn forged_id_only_events_cost_twenty_reads_of_the_feed_and_then_two_in_a_second() {
    let publisher = Publisher::with_id_only(7, &["A"]);
    with(&publisher, key(1).public(), async |replica| {
        let begun = Instant::now();
        let mut sent = 0_u32;
        while publisher.pages_of("A") < 23 {
            assert_eq!(changed(&replica, "A").await, EventOutcome::Success);
            assert!(begun.elapsed() < Duration::from_secs(20));
            sent += 1;
            // The other tasks of this thread.
            tokio::task::yield_now().await;
        }
        let most = 22 + begun.elapsed().as_millis() / 500;
        let reads = publisher.pages_of("A");
        assert!(reads as u128 <= most, "{reads} reads for {sent} events");
        assert!(sent > 1_000, "{sent} events");
    })
    .await;
}

/// An event that was signed stays signed for ever: it must not bring anything back.
#[tokio::test]
async fn signed_events_of_the_past_change_nothing() {
    let publisher = Publisher::at(0);
    with(&publisher, key(1).public(), async |replica| {
        let changes = [
            update("x", 1),
            update("x", 2),
            change("x", 3, None),
            update("y", 4),
        ];
        let events = changes.map(|change| signed(&change, &key(1), 1_000));
        for event in &events {
            assert_eq!(take(&replica, event).await, EventOutcome::Success);
        }
        let epoch = |text: &str| text.parse().expect("an epoch");
        // Of the history before, of one that is not declared yet, and of another store.
        let elsewhere = ["0e86d081-1", "0f86d081-9", "ffffffff-3"].map(|text| {
            let change = Change {
                epoch: epoch(text),
                ..update("x", 5)
            };
            signed(&change, &key(1), 1_000)
        });
        let before = publisher.check_ins.load(Ordering::Relaxed);
        for event in events.iter().rev().chain(&events).chain(&elsewhere) {
            assert_eq!(take(&replica, event).await, EventOutcome::Success);
            assert_eq!((held(&replica, "x"), watermark(&replica)), (None, 4));
        }
        assert_eq!(held(&replica, "y").as_deref(), Some(r#"{"v":4}"#));
        let status = replica.status();
        assert_eq!((status.events.duplicate, status.events.other_epoch), (8, 3));
        let check_ins = publisher.check_ins.load(Ordering::Relaxed) - before;
        assert!(check_ins <= 2, "{check_ins} check-ins for 11 events");
    })
    .await;
}

/// A publisher that is asked at every check-in: each answer comes over a connection of the replica.
#[tokio::test]
async fn what_the_publisher_answers_needs_no_signature() {
    let publisher = Publisher::at(0);
    with(&publisher, key(1).public(), async |replica| {
        publisher.revision.store(3, Ordering::Relaxed);
        let event = signed(&update("x", 4), &key(2), 1_000);
        assert_eq!(reason(take(&replica, &event).await), "unknown-key");
        eventually("caught up", || watermark(&replica) == 3).await;
        let text =
            serde_json::to_string(&contract::EventData::new(&update("z", 4), 100)).expect("json");
        let feed = crate::intake::EventSource::Feed;
        let outcome = replica.intake().receive_text(feed, &text, None).await;
        assert_eq!(outcome, EventOutcome::Success);
        assert_eq!(held(&replica, "z").as_deref(), Some(r#"{"v":4}"#));
    })
    .await;
}

/// A forged event alone is no fault: whoever can send one could report it at will.
#[tokio::test]
async fn changes_whose_events_are_dropped_show_that_the_keys_do_not_fit() {
    let publisher = Publisher::at(0);
    with(&publisher, key(1).public(), async |replica| {
        let intake = || replica.status().intake;
        let event = signed(&update("x", 1), &key(2), 1_000);
        assert_eq!(reason(take(&replica, &event).await), "unknown-key");
        assert_eq!(intake(), None);
        publisher.revision.store(1, Ordering::Relaxed);
        eventually("told", || intake() == Some(IntakeFault::Unverified)).await;
        eventually("reported", || {
            let reported = publisher.reported().and_then(|report| report.intake);
            reported == Some(IntakeFault::Unverified)
        })
        .await;
        let event = signed(&update("x", 2), &key(1), 1_000);
        assert_eq!(take(&replica, &event).await, EventOutcome::Success);
        assert_eq!(intake(), None);
    })
    .await;
}

/// A flood of forged events must not use up the places of reports.
#[tokio::test]
async fn only_drops_of_other_reasons_are_reported() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&reports);
    let answer = move |path: &str, body: &[u8]| {
        if path == "/v1/dead-letters" {
            let report: Value = serde_json::from_slice(body).expect("a report");
            kept.lock().expect("a lock").push(report["cause"].clone());
        }
        (503, String::new())
    };
    with_listener(answer, async |url| {
        let config = Config {
            event_keys: Some(EventKeys::fixed(key(1).public())),
            ..settings(vec![url])
        };
        let replica = Replica::new(config).expect("a client");
        let running = replica.clone();
        following(&running, async {
            for number in 1..200 {
                let forged = signed(&update("x", number), &key(2), 1_000);
                assert_eq!(reason(take(&replica, &forged).await), "unknown-key");
            }
            let invalid = r#"{"collection":"A","op":"Update","id":{}}"#;
            assert_eq!(
                reason(replica.receive_text(invalid, None).await),
                "wrong-type"
            );
            eventually("reported", || !reports.lock().expect("a lock").is_empty()).await;
        })
        .await;
        assert!(
            reports
                .lock()
                .expect("a lock")
                .iter()
                .all(|cause| cause == "wrong-type")
        );
    })
    .await;
}
