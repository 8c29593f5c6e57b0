//! What counts as a healthy fleet, and how the rest is shown.

use contract::fleet::ReplicaRecord;

use super::*;
use crate::stand_in::{
    StandIn,
    fleet::{gone, member},
};

/// One replica at revision 7 and what it says, against a publisher at revision 7.
fn report(state: ReplicaState, revision: u64, digest: u64) -> Report {
    let epoch = "0f86d081-1".parse().expect("an epoch");
    let collection: CollectionName = "A".parse().expect("a name");
    let head = Head {
        revision: 7,
        count: 1,
        ..Head::empty(collection.clone(), epoch)
    };
    let row = CollectionStatus {
        collection,
        state,
        reason: None,
        revision,
        known: 7,
        staged: 0,
        count: 1,
        digest: contract::Digest(digest),
        refusals: vec![],
    };
    let replica = Replica {
        instance: "subscriber-1".to_owned(),
        state,
        epoch: Some(epoch),
        confirmed_ms_ago: None,
        collections: vec![row],
        events: Default::default(),
        drops: vec![],
        boot_id: String::new(),
        intake: None,
        sync: Default::default(),
        last_error: None,
        handlers: vec![],
    };
    let said = |url: &str| url.to_owned();
    Report {
        publisher: Asked {
            url: said("http://p"),
            said: Said::Answer(Heads { heads: vec![head] }),
        },
        fleet: None,
        replicas: vec![Asked {
            url: said("http://s"),
            said: Said::Answer(replica),
        }],
    }
}

#[test]
fn healthy_means_current_and_equal() {
    assert!(report(ReplicaState::Current, 7, 0).wrong(false).is_empty());
    assert!(
        report(ReplicaState::Current, 6, 5).wrong(false).is_empty(),
        "on its way: digests are not comparable"
    );
    assert_eq!(
        report(ReplicaState::Current, 7, 5).wrong(false),
        ["A of subscriber-1 is different from the publisher"]
    );
    assert_eq!(
        report(ReplicaState::Stale, 7, 0).wrong(false),
        ["A of subscriber-1 is stale"]
    );
}

#[test]
fn the_unreachable_are_shown() {
    let mut report = report(ReplicaState::Current, 7, 0);
    report.replicas.push(Asked {
        url: "http://gone".to_owned(),
        said: Said::Error("cannot reach it".to_owned()),
    });
    assert_eq!(report.wrong(false), ["http://gone does not answer"]);
    let table = report.replica_table().to_string();
    assert!(
        table.contains("7/7") && table.contains("unreachable") && table.contains("cannot reach it"),
        "{table}"
    );
    let json = serde_json::to_value(&report).expect("json");
    assert_eq!(json["replicas"][1]["error"], "cannot reach it");
    assert_eq!(json["replicas"][0]["answer"]["instance"], "subscriber-1");
}

/// What `status` without named replicas knows of a publisher at revision 1 with this fleet.
async fn told(publisher: &StandIn, replicas: Vec<ReplicaRecord>) -> Report {
    let (name, id) = (
        "ChannelConfiguration".parse().expect("valid"),
        "a".parse().expect("valid"),
    );
    publisher
        .api()
        .put(&name, &id, b"{}")
        .await
        .expect("written");
    publisher.has_replicas(replicas);
    Report::ask(&publisher.api(), &Subscribers { named: vec![] })
        .await
        .expect("a report")
}

#[tokio::test]
async fn the_fleet_is_what_checked_in() {
    let publisher = StandIn::start().await;
    let mut deaf = member("deaf", None, 0);
    deaf.check_in.intake = Some(IntakeFault::NotReceiving);
    let report = told(
        &publisher,
        vec![
            member("one", Some("http://one:1"), 0),
            deaf,
            gone("old", None),
        ],
    )
    .await;
    assert!(report.replicas.is_empty(), "nobody is asked");
    assert_eq!(report.wrong(false), Vec::<String>::new());
    assert_eq!(report.wrong(true), ["old is gone", "deaf is deaf"]);
    let table = report.replicas_table().expect("a table").to_string();
    assert!(
        table.contains("http://one:1")
            && table.contains("0 s ago")
            && table.contains("gone, 0 s ago"),
        "{table}"
    );
    let mends = fleet::mends(report.intakes());
    assert!(
        matches!(&mends[..], [mend] if mend.starts_with("deaf: deaf: none of the last")),
        "{mends:?}"
    );
    let json = serde_json::to_value(&report).expect("json");
    assert_eq!(json["fleet"]["answer"]["replicas"][2]["gone"], true);
}

#[tokio::test]
async fn what_a_replica_reported_can_be_wrong() {
    let publisher = StandIn::start().await;
    let mut stale = member("stale", None, 0);
    for report in stale.check_in.collections.values_mut() {
        report.state = ReplicaState::Stale;
    }
    // It has seen revision 1, but its digest is that of an empty collection.
    let report = told(&publisher, vec![member("other", None, 1), stale]).await;
    let name = "ChannelConfiguration";
    let wrong = [
        format!("{name} of other is different from the publisher"),
        format!("{name} of stale is stale"),
    ];
    assert_eq!(report.wrong(false), wrong);
}

#[tokio::test]
async fn nobody_has_checked_in() {
    let report = told(&StandIn::start().await, vec![]).await;
    assert_eq!(
        (report.wrong(false), report.wrong(true)),
        (vec![], vec!["no replica has checked in".to_owned()])
    );
}

#[tokio::test]
async fn named_replicas_are_asked_and_an_old_publisher_is_fine() {
    let (publisher, replica) = (StandIn::start().await, StandIn::start().await);
    let old = Report::ask(&publisher.api(), &Subscribers { named: vec![] })
        .await
        .expect("a report");
    assert!(
        old.fleet.is_none() && old.replicas.len() == 2,
        "as `confcast up` starts them: {old:?}"
    );
    publisher.has_replicas(vec![gone("old", None)]);
    let named = vec![replica.url().parse().expect("a URL")];
    let report = Report::ask(&publisher.api(), &Subscribers { named })
        .await
        .expect("a report");
    assert!(
        report.fleet.is_none() && report.wrong(true).is_empty(),
        "{report:?}"
    );
    assert!(
        report
            .replicas_table()
            .expect("a table")
            .to_string()
            .contains("stand-in")
    );
}

#[tokio::test]
async fn a_publisher_that_is_away_is_told_once() {
    let api = StandIn::start().await.api();
    let report = Report::ask(&api, &Subscribers { named: vec![] })
        .await
        .expect("a report");
    assert_eq!(report.wrong(true), ["the publisher does not answer"]);
    assert!(report.replicas_table().is_none());
}
