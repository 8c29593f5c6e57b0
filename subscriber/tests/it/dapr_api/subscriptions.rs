//! What a subscription sends, in which order, and how it ends.

use std::sync::Mutex;

use super::*;

fn delete(id: &str, revision: u64) -> Value {
    json!({"collection": "A", "op": "Delete", "id": id, "revision": revision, "epoch": EPOCH})
}

#[tokio::test]
async fn values_come_first_then_every_change_in_order_and_deletions() {
    check(&[SERVED], publisher(7, 2), async |subscriber| {
        // Not loaded yet, perhaps: the call waits.
        let mut client = subscriber.dapr().await;
        let got = client.get_configuration(get("A", &["x", "none"])).await;
        let got = got.expect("values").into_inner().items;
        assert_eq!(got.len(), 1);
        let x = &got["x"];
        assert_eq!((x.value.as_str(), x.version.as_str()), (r#"{"v":1}"#, "1"));
        assert_eq!(
            x.metadata["crc"],
            config(&json!({"v": 1})).crc().to_string()
        );
        assert_eq!(x.metadata["epoch"], EPOCH);
        assert_eq!(x.metadata["state"], "current");
        let all = client.get_configuration_alpha1(get("A", &[])).await;
        assert_eq!(all.expect("values").into_inner().items.len(), 3);

        let (id, mut of_x) = subscribed(&mut client, keys("A", &["x", "y"])).await;
        assert_eq!(next(&mut of_x).await, one("x", 1, r#"{"v":1}"#));
        let (_id, mut of_all) = subscribed(&mut client, keys("A", &[])).await;
        assert_eq!(next(&mut of_all).await.len(), 3);
        // The later change arrives first; it waits for the earlier one.
        subscriber.event(update("x", 9, &json!({"v": 9}))).await;
        subscriber.event(update("y", 8, &json!({"v": 8}))).await;
        subscriber.event(update("z", 10, &json!({"v": 10}))).await;
        subscriber.event(delete("x", 11)).await;
        for updates in [&mut of_x, &mut of_all] {
            assert_eq!(next(updates).await, one("y", 8, r#"{"v":8}"#));
            assert_eq!(next(updates).await, one("x", 9, r#"{"v":9}"#));
        }
        assert_eq!(next(&mut of_all).await, one("z", 10, r#"{"v":10}"#));
        assert_eq!(next(&mut of_all).await, one("x", 11, ""));
        assert_eq!(next(&mut of_x).await, one("x", 11, ""));

        let end = |id: &str| UnsubscribeConfigurationRequest {
            store_name: "A".to_owned(),
            id: id.to_owned(),
        };
        let ended = client.unsubscribe_configuration(end(&id)).await;
        assert!(ended.expect("an answer").into_inner().ok);
        assert!(of_x.message().await.expect("no error").is_none());
        let again = client.unsubscribe_configuration_alpha1(end(&id)).await;
        let again = again.expect("an answer").into_inner();
        assert!(
            !again.ok && again.message.contains("does not exist"),
            "{again:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_change_set_is_one_message() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        next(&mut updates).await;
        let set = json!({"id": "set", "parts": [{"collection": "A", "first": 8, "last": 10}]});
        for (id, revision) in [("c", 10), ("a", 8), ("b", 9)] {
            let mut event = update(id, revision, &json!({"v": revision}));
            event["changeSet"] = set.clone();
            subscriber.event(event).await;
        }
        subscriber.event(update("a", 11, &json!({"v": 11}))).await;
        let together = next(&mut updates).await;
        assert_eq!(together.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(next(&mut updates).await, one("a", 11, r#"{"v":11}"#));
    })
    .await;
}

#[tokio::test]
async fn values_beyond_one_message_are_refused_in_words_and_sent_in_several() {
    check(&[SERVED], publisher(7, 600), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let refused = client.get_configuration(get("A", &[])).await;
        let refused = refused.expect_err("6 MB");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("subscribe"), "{refused}");
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        let mut all = BTreeMap::new();
        while all.len() < 601 {
            all.extend(next(&mut updates).await);
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_value_of_each_key_and_no_older_one_after_it() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        let text = "y".repeat(2_000);
        for revision in 8..2_008_u64 {
            let id = format!("d{}", revision % 7);
            let value = json!({"v": revision, "text": text});
            subscriber.event(update(&id, revision, &value)).await;
        }
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        let mut messages = 0;
        while newest.values().max() < Some(&2_007) {
            for (key, (version, _value, _deleted)) in next(&mut updates).await {
                let before = newest.insert(key.clone(), version);
                assert!(before < Some(version), "{key} went back to {version}");
            }
            messages += 1;
        }
        let expected: BTreeMap<_, _> = (2_001..2_008_u64)
            .map(|revision| (format!("d{}", revision % 7), revision))
            .chain([("x".to_owned(), 1)])
            .collect();
        assert_eq!(newest, expected);
        assert!(messages < 1_500, "nothing was left out: {messages}");
    })
    .await;
}

/// Events of changes in any order, some of them twice; a subscription ends with what the HTTP API gives,
/// in the order of revisions, and without a change left out.
#[tokio::test]
async fn events_in_any_order_are_changes_in_the_order_of_their_revisions() {
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        next(&mut updates).await;
        // The multiplier and increment of Knuth's MMIX: the same order in every run.
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005);
            seed = seed.wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).expect("31 bits") % below
        };
        let mut existing = std::collections::BTreeSet::new();
        let changes: Vec<_> = (8..408_u64)
            .map(|revision| {
                let id = format!("d{}", random(9));
                // Nothing that is not there is deleted.
                let event = if existing.contains(&id) && random(4) == 0 {
                    existing.remove(&id);
                    delete(&id, revision)
                } else {
                    existing.insert(id.clone());
                    update(&id, revision, &json!({"v": revision}))
                };
                (id, event)
            })
            .collect();
        let mut events: Vec<_> = changes.iter().map(|(_id, event)| event.clone()).collect();
        for place in 0..events.len() {
            let other = (place + random(12)).min(events.len() - 1);
            events.swap(place, other);
            if random(5) == 0 {
                events.push(events[place].clone());
            }
        }
        for event in events {
            subscriber.event(event).await;
        }
        for (revision, (id, event)) in (8..).zip(&changes) {
            let value = event.get("configData").map(Value::to_string);
            let value = value.unwrap_or_default();
            assert_eq!(next(&mut updates).await, one(id, revision, &value));
        }
    })
    .await;
}

#[tokio::test]
async fn a_subscription_ends_with_an_error_when_the_subscriber_stops() {
    let kept = Mutex::new(None);
    check(&[SERVED], publisher(7, 0), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let (_id, mut updates) = subscribed(&mut client, keys("A", &[])).await;
        next(&mut updates).await;
        *kept.lock().expect("no panic") = Some(updates);
    })
    .await;
    let mut updates = kept.lock().expect("no panic").take().expect("a stream");
    let ended = timeout(DEADLINE, updates.message()).await;
    let ended = ended.expect("in time");
    let status = ended.expect_err("no end without a word");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}
