//! The list of replicas.

use chrono::TimeDelta;

use super::*;

#[tokio::test]
async fn the_newest_check_in_is_listed_at_once_and_after_a_restart() {
    let testbed = Testbed::new().await;
    testbed.put(FREE, "a", 1).await;
    let epoch = testbed.head(FREE).await.epoch;
    for revision in 0..2 {
        testbed
            .check_in("a", report(epoch, revision, Digest::default()))
            .await;
    }
    testbed
        .check_in("b", report(epoch, 0, Digest::default()))
        .await;
    let revisions = |replicas: Vec<ReplicaRecord>| -> Vec<_> {
        replicas
            .iter()
            .map(|m| {
                (
                    m.check_in.instance.clone(),
                    m.check_in.collections[&name(FREE)].revision,
                )
            })
            .collect()
    };
    let expected = vec![("a".to_owned(), 1), ("b".to_owned(), 0)];
    assert_eq!(revisions(testbed.listed().await), expected);
    let written = async {
        while testbed.rows().await < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written)
        .await
        .expect("written in time");
    let (_file, testbed) = testbed.dump().await;
    assert_eq!(revisions(testbed.listed().await), expected);
    testbed
        .store
        .forget_replicas(Utc::now() + TimeDelta::seconds(1))
        .await
        .expect("forgotten");
    assert_eq!(testbed.rows().await, 0);
}

/// A store in a folder, and a fleet on it whose tasks do not run.
async fn without_tasks(
    folder: &TempDir,
    subscribers: Option<SubscriberRegistry>,
) -> (Store, Fleet, FleetTasks) {
    let policy = Arc::new(PublisherPolicy {
        collections: ServedCollections::fixed(BTreeSet::from([name(FREE)])),
        rules: Rules {
            schemas: Schemas::default(),
            document_limit: 1_000,
            secrets: Default::default(),
        },
        broadcast: crate::policy::Broadcast::Off,
    });
    let store = open(&StoreUrl::Embedded(folder.path().into()), policy).await;
    let forget_after = Duration::from_secs(60);
    let (fleet, tasks) = Fleet::new(
        store.clone(),
        4_096,
        forget_after,
        subscribers,
        Default::default(),
        Arc::default(),
    );
    (store, fleet, tasks)
}

/// A check-in of the replica `a` that came over this loopback.
async fn check_in(fleet: &Fleet) {
    let body = json!({
        "instance": "a", "bootId": "b", "intervalMs": 10_000, "collections": {},
        "baseUrl": "http://127.0.0.1:7",
    });
    let peer = Peer {
        address: Some([127, 0, 0, 1].into()),
        token: None,
    };
    let body = body.to_string();
    let caller = Identity::unrestricted();
    let answered = fleet.check_in("a", body.as_bytes(), peer, &caller, open_session());
    answered.await.expect("checked in");
}

/// No row is written by the request: the list merges the records that wait.
#[tokio::test]
async fn a_check_in_is_listed_before_its_row_is_written() {
    let folder = TempDir::new().expect("a folder");
    let (store, fleet, tasks) = without_tasks(&folder, None).await;
    // The task that writes rows does not run, so a row in the list can only come from memory.
    let never = CancellationToken::new();
    let mut answering = JoinSet::new();
    answering.spawn(tasks.check_ins.run(never));
    check_in(&fleet).await;
    let list = fleet.page(None, 10).await.expect("a list");
    assert_eq!(list.replicas[0].check_in.instance, "a");
    let rows = store.replicas(0, |rows, _row| *rows += 1).await;
    assert_eq!(rows.expect("rows"), 0);
}

#[tokio::test]
async fn a_read_of_the_list_during_a_check_in_does_not_take_its_events_away() {
    let folder = TempDir::new().expect("a folder");
    let authenticator = Arc::new(Authenticator::open());
    let subscribers = SubscriberRegistry::new(Vec::new(), BTreeSet::new(), None, authenticator);
    let gets_events = || format!("{subscribers:?}").contains("http://127.0.0.1:7");
    let (_store, fleet, mut tasks) = without_tasks(&folder, Some(subscribers.clone())).await;
    let mut checking_in = std::pin::pin!(check_in(&fleet));
    // Nothing answers yet, so the check-in waits, between its address and its place in the list.
    assert!(futures_util::poll!(&mut checking_in).is_pending());
    assert!(gets_events(), "before it is answered");
    tasks.registry.round().await.expect("the list is read");
    assert!(!gets_events(), "the read did not find it");
    let mut answering = JoinSet::new();
    answering.spawn(tasks.check_ins.run(CancellationToken::new()));
    checking_in.await;
    assert!(gets_events(), "once it is answered");
}

#[tokio::test]
async fn pages_hold_each_replica_once_in_the_order_of_names() {
    let testbed = Testbed::new().await;
    let epoch = testbed.head(FREE).await.epoch;
    let names: Vec<String> = (0..5).map(|number| format!("r{number}")).collect();
    for name in &names {
        let report = report(epoch, 0, Digest::default());
        testbed.check_in(name, report).await;
    }
    for limit in [1, 2, 5, 1_000] {
        let mut seen = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = testbed.fleet.page(after.as_deref(), limit).await;
            let page = page.expect("a page");
            assert!((1..=limit).contains(&page.replicas.len()), "{limit}");
            let listed = page.replicas.into_iter();
            seen.extend(listed.map(|record| record.check_in.instance));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, names, "{limit}");
    }
    let beyond = testbed.fleet.page(Some("r4"), 10).await.expect("a page");
    assert_eq!((beyond.replicas.len(), beyond.next), (0, None));
}

/// A publisher whose clock was ahead wrote the row of before.
#[tokio::test]
async fn a_check_in_replaces_a_row_from_the_future() {
    let testbed = Testbed::new().await;
    let epoch = testbed.head(FREE).await.epoch;
    let row = json!({
        "instance": "a", "bootId": "b", "intervalMs": 10_000, "gone": false, "collections": {},
        "seen": Utc::now() + TimeDelta::hours(1),
    });
    let row: ReplicaRow = serde_json::from_value(row).expect("a row");
    let written = testbed.store.put_replicas(vec![Arc::new(row)]).await;
    written.expect("written");
    let before = testbed.listed().await;
    assert!(
        before[0].seen <= Utc::now() && !before[0].gone,
        "{before:?}"
    );
    testbed
        .check_in("a", report(epoch, 0, Digest::default()))
        .await;
    assert_eq!(testbed.listed().await[0].check_in.collections.len(), 1);
    let (_file, testbed) = testbed.dump().await;
    let after = testbed.listed().await;
    assert_eq!(after[0].check_in.collections.len(), 1, "it was written");
    assert!(after[0].seen <= Utc::now());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_left_out_of_the_list() {
    let testbed = Testbed::new().await;
    let epoch = testbed.head(FREE).await.epoch;
    testbed
        .check_in("a", report(epoch, 0, Digest::default()))
        .await;
    testbed
        .check_in("z", report(epoch, 0, Digest::default()))
        .await;
    let folder = testbed.closed().await;
    let file = rusqlite::Connection::open(folder.path().join("confcast.sqlite")).expect("a file");
    let insert = "INSERT INTO replicas (name, seen, record) VALUES (?1, ?2, ?3)";
    let now = Utc::now().timestamp_millis();
    for (name, record) in [("b", r#"{"instance":"b"}"#), ("c", "\u{0}"), ("d", "")] {
        file.execute(insert, (name, now, record.as_bytes()))
            .expect("inserted");
    }
    drop(file);
    let testbed = Testbed::on(folder).await;
    let listed = testbed.listed().await;
    let names: Vec<_> = listed
        .iter()
        .map(|record| &*record.check_in.instance)
        .collect();
    assert_eq!(names, ["a", "z"]);
    testbed
        .check_in("b", report(epoch, 0, Digest::default()))
        .await;
    assert_eq!(testbed.listed().await.len(), 3, "its check-in replaces it");
}

/// Check-ins of a few kilobytes, each of which takes more than 100 KB of memory.
#[tokio::test]
async fn the_list_is_full_when_its_memory_is() {
    let testbed = Testbed::new().await;
    let epoch = testbed.head(FREE).await.epoch;
    testbed
        .check_in("real", report(epoch, 0, Digest::default()))
        .await;
    let reports: serde_json::Map<_, _> = (0..256)
        .map(|number| {
            (
                format!("A{number}"),
                json!({ "revision": 0, "known": 0, "state": "loading" }),
            )
        })
        .collect();
    let caller = Identity::unrestricted();
    let check_in = async |name: &str, collections: &serde_json::Value| {
        let body = json!({ "instance": name, "bootId": "b", "intervalMs": 10_000, "collections": collections });
        let body = body.to_string();
        let answer = testbed.fleet.check_in(
            name,
            body.as_bytes(),
            Peer::default(),
            &caller,
            open_session(),
        );
        answer.await.expect("checked in");
        body.len()
    };
    let large = serde_json::Value::Object(reports);
    let mut sent = 0;
    for number in 0..2_000 {
        sent += check_in(&format!("fake-{number}"), &large).await;
        if testbed.fleet.unlisted() > 0 {
            break;
        }
    }
    let records = testbed.fleet.records().await.expect("records");
    let least = 256 * size_of::<(CollectionName, contract::fleet::CollectionReport)>();
    assert!(
        records.len() * least < crate::store::replicas::FLEET_BYTES,
        "{} listed",
        records.len()
    );
    assert!(sent < 16 << 20, "{sent} bytes of JSON");
    // What is left is for small ones, until it is full as well.
    for number in 0..200 {
        check_in(&format!("small-{number}"), &json!({})).await;
    }
    assert!(testbed.fleet.unlisted() > 10);
    // A known one reports, also with what would not fit.
    let handler = json!({ "name": "h", "collection": FREE, "state": "failing", "revision": 1, "error": "e".repeat(1_000) });
    let body = json!({
        "instance": "real", "bootId": "b", "intervalMs": 10_000, "handlers": vec![handler; 8], "lastError": "no",
        "collections": { FREE: report(epoch, 0, Digest::default()), OTHER: report(epoch, 0, Digest::default()) },
    });
    let body = body.to_string();
    let answer = testbed.fleet.check_in(
        "real",
        body.as_bytes(),
        Peer::default(),
        &caller,
        open_session(),
    );
    answer.await.expect("checked in");
    // The page before is full of the large ones.
    let page = testbed.fleet.page(Some("r"), 1).await;
    let listed = page.expect("a page").replicas;
    let real = listed
        .iter()
        .find(|record| record.check_in.instance == "real")
        .expect("listed");
    assert_eq!(real.check_in.collections.len(), 2);
    assert_eq!(
        (real.check_in.failing_handlers, real.check_in.handlers.len()),
        (8, 0)
    );
    assert!(
        real.check_in
            .last_error
            .as_deref()
            .is_some_and(|error| error.contains("full"))
    );
}
