//! A fake publisher compared with fake replicas that hold the same documents, or nearly the same.

use contract::fleet::ReplicaRecord;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::fake_publisher::{
    Cut, FakePublisher,
    replicas::{gone, record},
};

const WAIT: Duration = Duration::from_secs(5);
const NAME: &str = "ChannelConfiguration";

/// A service in which these documents were written, in this order.
async fn with(documents: &[(&str, &str)]) -> FakePublisher {
    let service = FakePublisher::start().await;
    for (id, config) in documents {
        write(&service, id, config).await;
    }
    service
}

async fn write(service: &FakePublisher, id: &str, config: &str) {
    let (name, id) = (NAME.parse().expect("valid"), id.parse().expect("valid"));
    service
        .endpoint()
        .put_or_create(&name, &id, config.as_bytes())
        .await
        .expect("written");
}

async fn verified(
    publisher: &FakePublisher,
    replicas: Vec<ReplicaRecord>,
    named: &[&FakePublisher],
    wait: Duration,
) -> Report {
    publisher.has_replicas(replicas);
    let named = named
        .iter()
        .map(|replica| replica.url().parse().expect("a URL"))
        .collect();
    check(&publisher.endpoint(), &Subscribers { named }, wait)
        .await
        .expect("the publisher can be read")
}

/// The one collection of the one replica, as JSON, after a short wait.
async fn against(
    publisher: &FakePublisher,
    replica: &FakePublisher,
    wait: Duration,
) -> (Value, Vec<String>) {
    let report = verified(
        publisher,
        vec![record("one", Some(replica.url()), 0)],
        &[],
        wait,
    )
    .await;
    report.print().expect("printed");
    let json = serde_json::to_value(&report).expect("json");
    (
        json["replicas"][0]["collections"][0].clone(),
        report.failures(),
    )
}

#[tokio::test]
async fn equal_means_equal_bytes_at_equal_revisions() {
    let publisher = with(&[("a", r#"{"x":1,"y":2}"#), ("b", "{}")]).await;
    let (one, two) = (
        with(&[("a", r#"{"y":2, "x":1}"#), ("b", "{}")]).await,
        with(&[("a", "{}")]).await,
    );
    write(&two, "b", "{}").await;
    let (row, wrong) = against(&publisher, &one, WAIT).await;
    assert_eq!(
        (&row["verdict"], &row["documents"], wrong),
        (&json!("equal"), &json!(2), vec![])
    );
    // An equal replica does not hide one that differs.
    let report = verified(
        &publisher,
        vec![record("one", Some(one.url()), 2)],
        &[&one, &two],
        WAIT,
    )
    .await;
    assert_eq!(
        report.failures(),
        [format!("{NAME} of {} is different", two.url())],
        "and no replica is compared twice"
    );
    assert_eq!(one.snapshots(), 2, "an equal replica is not read again");
}

#[tokio::test]
async fn differences_are_found_in_both_directions() {
    let both = [("a", "{}"), ("b", "{}"), ("c", "{}")];
    let publisher = with(&both).await;

    let replica = with(&both).await;
    replica.lose("b");
    let (row, wrong) = against(&publisher, &replica, WAIT).await;
    assert_eq!(wrong, [format!("{NAME} of one is different")]);
    let first = &row["first"][0];
    assert_eq!(
        (&row["differences"], &first["id"], &first["kind"]),
        (&json!(1), &json!("b"), &json!("missing"))
    );
    assert!(
        first["publisher"]["revision"] == 2 && first["replica"].is_null(),
        "{first}"
    );

    publisher.lose("a");
    replica.lose("c");
    let (row, _wrong) = against(&publisher, &replica, WAIT).await;
    let kinds: Vec<_> = row["first"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (&one["id"], &one["kind"]))
        .collect();
    let [a, b, c] = [json!("a"), json!("b"), json!("c")];
    let (missing, extra) = (json!("missing"), json!("extra"));
    assert_eq!(kinds, [(&a, &extra), (&b, &missing), (&c, &missing)]);
}

#[tokio::test]
async fn other_revisions_and_other_bytes_differ() {
    let publisher = with(&[("a", "{}"), ("b", "{}"), ("b", "{}")]).await;
    let replica = with(&[("a", "{}"), ("a", "{}"), ("b", r#"{"x":1}"#)]).await;
    let (row, _wrong) = against(&publisher, &replica, WAIT).await;
    let kinds: Vec<_> = row["first"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["kind"])
        .collect();
    assert_eq!(kinds, [&json!("revision"), &json!("bytes")]);
    assert_ne!(
        row["first"][1]["publisher"]["crc"],
        row["first"][1]["replica"]["crc"]
    );
}

#[tokio::test]
async fn many_differences_are_counted_and_the_first_are_listed() {
    let (publisher, replica) = (with(&[]).await, with(&[]).await);
    for n in 0..30 {
        write(&publisher, &format!("d{n:02}"), "{}").await;
        write(&replica, &format!("d{n:02}"), r#"{"x":1}"#).await;
    }
    let (row, _wrong) = against(&publisher, &replica, WAIT).await;
    let first = row["first"].as_array().expect("a list");
    assert_eq!(
        (&row["differences"], first.len(), &first[19]["id"]),
        (&json!(30), 20, &json!("d19"))
    );
}

#[tokio::test]
async fn a_replica_that_catches_up_is_equal() {
    let publisher = with(&[("a", "{}"), ("b", "{}")]).await;
    let replica = with(&[("a", "{}")]).await;
    let catch_up = async {
        sleep(Duration::from_millis(100)).await;
        write(&replica, "b", "{}").await;
    };
    let ((row, wrong), ()) = tokio::join!(against(&publisher, &replica, WAIT), catch_up);
    assert_eq!((&row["verdict"], wrong), (&json!("equal"), vec![]));
}

#[tokio::test]
async fn a_replica_at_another_revision_is_behind_or_ahead() {
    let (more, less) = (
        with(&[("a", "{}"), ("b", "{}")]).await,
        with(&[("a", "{}")]).await,
    );
    let (row, wrong) = against(&more, &less, Duration::from_millis(300)).await;
    assert_eq!(
        (&row["verdict"], wrong),
        (&json!("behind"), vec![format!("{NAME} of one is behind")])
    );
    assert!(
        row["replica"]["revision"] == 1
            && row["publisher"]["revision"] == 2
            && row["differences"] == 0,
        "{row}"
    );
    assert!(
        (2..=3).contains(&less.snapshots()),
        "a few rounds: {}",
        less.snapshots()
    );
    let (row, _wrong) = against(&less, &more, Duration::ZERO).await;
    assert_eq!(row["verdict"], "ahead");
}

#[tokio::test]
async fn a_difference_that_disappears_is_not_reported() {
    let (publisher, replica) = (
        with(&[("a", "{}"), ("b", "{}")]).await,
        with(&[("a", "{}"), ("b", "{}")]).await,
    );
    publisher.lose("b");
    let repair = async {
        sleep(Duration::from_millis(100)).await;
        replica.lose("b");
    };
    let ((row, wrong), ()) = tokio::join!(against(&publisher, &replica, WAIT), repair);
    assert_eq!((&row["verdict"], wrong), (&json!("equal"), vec![]));
}

#[tokio::test]
async fn a_snapshot_that_is_cut_off_proves_nothing() {
    let publisher = with(&[("a", "{}"), ("b", "{}")]).await;
    for (cut, text) in [
        (Cut::Connection, "http://"),
        (Cut::EndLine, "no end line"),
        (Cut::Item, "has 2 documents with digest"),
    ] {
        let replica = with(&[("a", "{}"), ("b", "{}")]).await;
        replica.cut(cut);
        let report = verified(&publisher, vec![], &[&replica], WAIT).await;
        report.print().expect("printed");
        let wrong = report.failures();
        assert!(
            matches!(&wrong[..], [wrong] if wrong.contains(text)),
            "{cut:?}: {wrong:?}"
        );
    }
    let replica = with(&[]).await;
    publisher.cut(Cut::EndLine);
    let named = vec![replica.url().parse().expect("a URL")];
    let error = check(&publisher.endpoint(), &Subscribers { named }, WAIT)
        .await
        .expect_err("the publisher cannot be read");
    assert!(
        format!("{error:#}").contains("reading the publisher http"),
        "{error:#}"
    );
}

#[tokio::test]
async fn live_replicas_must_answer_and_gone_replicas_are_named() {
    let (publisher, replica) = (with(&[("a", "{}")]).await, with(&[("a", "{}")]).await);
    let away = FakePublisher::start().await.url().to_owned();
    let replicas = vec![
        gone("scaled-away", Some(&away)),
        record("embedded", None, 1),
        record("fine", Some(replica.url()), 1),
    ];
    let report = verified(&publisher, replicas.clone(), &[], WAIT).await;
    assert_eq!(report.failures(), Vec::<String>::new());
    let json = serde_json::to_value(&report).expect("json");
    assert_eq!(
        (
            &json["replicas"][1]["replica"],
            &json["replicas"][1]["skipped"]
        ),
        (&json!("scaled-away"), &json!("gone"))
    );
    assert_eq!(json["replicas"][2]["skipped"], "reports no base URL");
    report.print().expect("printed");

    let replicas = [
        replicas,
        vec![
            record("away", Some(&away), 1),
            record("odd", Some("ftp://far:1"), 1),
        ],
    ]
    .concat();
    let wrong = verified(&publisher, replicas, &[], WAIT).await.failures();
    assert!(
        matches!(&wrong[..], [away, odd] if away.starts_with("away: cannot reach") && odd.starts_with("odd: cannot be asked")),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn without_a_replica_list_the_named_are_compared_and_without_any_nothing_is_proven() {
    let (publisher, replica) = (with(&[("a", "{}")]).await, with(&[("a", "{}")]).await);
    let named = vec![replica.url().parse().expect("a URL")];
    let report = check(&publisher.endpoint(), &Subscribers { named }, WAIT)
        .await
        .expect("an older publisher is enough");
    assert_eq!(report.failures(), Vec::<String>::new());
    let report = verified(&publisher, vec![gone("old", None)], &[], WAIT).await;
    assert_eq!(
        report.failures(),
        ["there is no replica to compare; name one with --subscriber"]
    );
}
