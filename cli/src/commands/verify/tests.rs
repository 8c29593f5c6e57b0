//! A stand-in publisher against stand-in replicas that hold the same, or not quite.

use contract::fleet::ReplicaRecord;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::stand_in::{
    Cut, StandIn,
    fleet::{gone, member},
};

const WAIT: Duration = Duration::from_secs(5);
const NAME: &str = "ChannelConfiguration";

/// A service where these were written, in this order.
async fn with(documents: &[(&str, &str)]) -> StandIn {
    let service = StandIn::start().await;
    for (id, config) in documents {
        write(&service, id, config).await;
    }
    service
}

async fn write(service: &StandIn, id: &str, config: &str) {
    let (name, id) = (NAME.parse().expect("valid"), id.parse().expect("valid"));
    service
        .api()
        .put(&name, &id, config.as_bytes())
        .await
        .expect("written");
}

async fn verified(
    publisher: &StandIn,
    fleet: Vec<ReplicaRecord>,
    named: &[&StandIn],
    wait: Duration,
) -> Report {
    publisher.has_replicas(fleet);
    let named = named
        .iter()
        .map(|replica| replica.url().parse().expect("a URL"))
        .collect();
    check(&publisher.api(), &Subscribers { named }, wait)
        .await
        .expect("the publisher can be read")
}

/// The one collection of the one replica, as JSON, after a short wait.
async fn against(publisher: &StandIn, replica: &StandIn, wait: Duration) -> (Value, Vec<String>) {
    let report = verified(
        publisher,
        vec![member("one", Some(replica.url()), 0)],
        &[],
        wait,
    )
    .await;
    report.show().expect("shown");
    let json = serde_json::to_value(&report).expect("json");
    (
        json["replicas"][0]["collections"][0].clone(),
        report.wrong(),
    )
}

#[tokio::test]
async fn equal_is_equal_bytes_at_equal_revisions() {
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
    // One that equals does not hide one that does not.
    let report = verified(
        &publisher,
        vec![member("one", Some(one.url()), 2)],
        &[&one, &two],
        WAIT,
    )
    .await;
    assert_eq!(
        report.wrong(),
        [format!("{NAME} of {} is different", two.url())],
        "and nobody is compared twice"
    );
    assert_eq!(one.snapshots(), 2, "what is equal is not read again");
}

#[tokio::test]
async fn every_difference_is_found_both_ways() {
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
async fn a_replica_that_does_not_is_behind_or_ahead() {
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
async fn a_difference_that_passes_is_none() {
    let (publisher, replica) = (
        with(&[("a", "{}"), ("b", "{}")]).await,
        with(&[("a", "{}"), ("b", "{}")]).await,
    );
    publisher.lose("b");
    let heal = async {
        sleep(Duration::from_millis(100)).await;
        replica.lose("b");
    };
    let ((row, wrong), ()) = tokio::join!(against(&publisher, &replica, WAIT), heal);
    assert_eq!((&row["verdict"], wrong), (&json!("equal"), vec![]));
}

#[tokio::test]
async fn what_cannot_be_read_to_its_end_proves_nothing() {
    let publisher = with(&[("a", "{}"), ("b", "{}")]).await;
    for (cut, told) in [
        (Cut::Connection, "http://"),
        (Cut::EndLine, "no end line"),
        (Cut::Item, "has 2 documents with digest"),
    ] {
        let replica = with(&[("a", "{}"), ("b", "{}")]).await;
        replica.cut(cut);
        let report = verified(&publisher, vec![], &[&replica], WAIT).await;
        report.show().expect("shown");
        let wrong = report.wrong();
        assert!(
            matches!(&wrong[..], [wrong] if wrong.contains(told)),
            "{cut:?}: {wrong:?}"
        );
    }
    let replica = with(&[]).await;
    publisher.cut(Cut::EndLine);
    let named = vec![replica.url().parse().expect("a URL")];
    let error = check(&publisher.api(), &Subscribers { named }, WAIT)
        .await
        .expect_err("no publisher to compare with");
    assert!(
        format!("{error:#}").contains("reading the publisher http"),
        "{error:#}"
    );
}

#[tokio::test]
async fn the_live_must_answer_and_the_gone_are_named() {
    let (publisher, replica) = (with(&[("a", "{}")]).await, with(&[("a", "{}")]).await);
    let away = StandIn::start().await.url().to_owned();
    let fleet = vec![
        gone("scaled-away", Some(&away)),
        member("embedded", None, 1),
        member("fine", Some(replica.url()), 1),
    ];
    let report = verified(&publisher, fleet.clone(), &[], WAIT).await;
    assert_eq!(report.wrong(), Vec::<String>::new());
    let json = serde_json::to_value(&report).expect("json");
    assert_eq!(
        (
            &json["replicas"][1]["replica"],
            &json["replicas"][1]["skipped"]
        ),
        (&json!("scaled-away"), &json!("gone"))
    );
    assert_eq!(json["replicas"][2]["skipped"], "tells no base URL");
    report.show().expect("shown");

    let fleet = [
        fleet,
        vec![
            member("away", Some(&away), 1),
            member("odd", Some("https://far:1"), 1),
        ],
    ]
    .concat();
    let wrong = verified(&publisher, fleet, &[], WAIT).await.wrong();
    assert!(
        matches!(&wrong[..], [away, odd] if away.starts_with("away: cannot reach") && odd.starts_with("odd: cannot be asked")),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn without_a_fleet_the_named_are_compared_and_without_any_nothing_is_proven() {
    let (publisher, replica) = (with(&[("a", "{}")]).await, with(&[("a", "{}")]).await);
    let named = vec![replica.url().parse().expect("a URL")];
    let report = check(&publisher.api(), &Subscribers { named }, WAIT)
        .await
        .expect("an older publisher will do");
    assert_eq!(report.wrong(), Vec::<String>::new());
    let report = verified(&publisher, vec![gone("old", None)], &[], WAIT).await;
    assert_eq!(
        report.wrong(),
        ["there is none to compare; name one with --subscriber"]
    );
}
