//! The list of replicas.

use chrono::TimeDelta;
use contract::fleet::ReplicaList;

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
    let revisions = |fleet: ReplicaList| -> Vec<_> {
        fleet
            .replicas
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
    assert_eq!(
        revisions(testbed.fleet.list().await.expect("a fleet")),
        expected
    );
    let written = async {
        while testbed.store.replicas().await.expect("rows").len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written)
        .await
        .expect("written in time");
    let (_file, testbed) = testbed.dump().await;
    assert_eq!(
        revisions(testbed.fleet.list().await.expect("a fleet")),
        expected
    );
    testbed
        .store
        .forget_replicas(Utc::now() + TimeDelta::seconds(1))
        .await
        .expect("forgotten");
    assert!(testbed.store.replicas().await.expect("rows").is_empty());
}

/// No row is written by the request: the list merges the records that wait.
#[tokio::test]
async fn a_check_in_is_listed_before_its_row_is_written() {
    let folder = TempDir::new().expect("a folder");
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
        None,
        Default::default(),
        Arc::default(),
    );
    // The task that writes rows does not run, so a row in the list can only come from memory.
    let never = CancellationToken::new();
    let mut answering = JoinSet::new();
    answering.spawn(tasks.check_ins.run(never));
    let body = json!({ "instance": "a", "bootId": "b", "intervalMs": 10_000, "collections": {} });
    fleet
        .check_in(
            "a",
            body.to_string().as_bytes(),
            Peer::default(),
            &Identity::unrestricted(),
            open_session(),
        )
        .await
        .expect("checked in");
    let list = fleet.list().await.expect("a list");
    assert_eq!(list.replicas[0].check_in.instance, "a");
    assert_eq!(store.replicas().await.expect("rows"), []);
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
