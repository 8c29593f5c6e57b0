//! What counts as a healthy fleet, and how the rest is shown.

use super::*;

/// One replica at revision 7 and what it says, against a publisher at revision 7.
fn report(state: State, revision: u64, digest: u64) -> Report {
    let epoch = "0f86d081-1".parse().expect("an epoch");
    let collection: CollectionName = "A".parse().expect("a name");
    let head = Head { revision: 7, count: 1, ..Head::empty(collection.clone(), epoch) };
    let row = CollectionStatus {
        collection,
        state,
        reason: None,
        revision,
        known: 7,
        staged: 0,
        count: 1,
        digest: contract::Digest(digest),
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
        healing: Default::default(),
        last_error: None,
    };
    let said = |url: &str| url.to_owned();
    Report {
        publisher: Asked { url: said("http://p"), said: Said::Answer(Heads { heads: vec![head] }) },
        replicas: vec![Asked { url: said("http://s"), said: Said::Answer(replica) }],
    }
}

#[test]
fn healthy_means_current_and_equal() {
    assert!(report(State::Current, 7, 0).wrong().is_empty());
    assert!(report(State::Current, 6, 5).wrong().is_empty(), "on its way: digests are not comparable");
    assert_eq!(report(State::Current, 7, 5).wrong(), ["A of subscriber-1 is different from the publisher"]);
    assert_eq!(report(State::Stale, 7, 0).wrong(), ["A of subscriber-1 is stale"]);
}

#[test]
fn the_unreachable_are_shown() {
    let mut report = report(State::Current, 7, 0);
    report.replicas.push(Asked { url: "http://gone".to_owned(), said: Said::Error("cannot reach it".to_owned()) });
    assert_eq!(report.wrong(), ["http://gone does not answer"]);
    let table = report.replica_table().to_string();
    assert!(table.contains("7/7") && table.contains("unreachable") && table.contains("cannot reach it"), "{table}");
    let json = serde_json::to_value(&report).expect("json");
    assert_eq!(json["replicas"][1]["error"], "cannot reach it");
    assert_eq!(json["replicas"][0]["answer"]["instance"], "subscriber-1");
}
