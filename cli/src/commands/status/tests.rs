//! Which replicas are healthy, and how both forms of the output show them.

use contract::{
    CollectionName,
    fleet::{IntakeFault, ReplicaRecord, Transport},
    status::{CollectionStatus, HandlerState, HandlerStatus, RefusedValue, ReplicaState},
};

use super::{reply::ReplyResult, *};
use crate::fake_publisher::{
    FakePublisher,
    replicas::{gone, record},
};

/// One replica that was asked, at this revision, and a publisher at revision 7.
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
        refused_values: 0,
    };
    let status = ReplicaStatus {
        projection: None,
        instance: "subscriber-1".to_owned(),
        state,
        epoch: Some(epoch),
        confirmed_ms_ago: None,
        collections: vec![row],
        events: Default::default(),
        drops: vec![],
        boot_id: String::new(),
        base_url: None,
        version: None,
        protocol: None,
        transport: None,
        event_keys: Vec::new(),
        intake: None,
        events_behind: 0,
        topics_not_subscribed: Default::default(),
        sync: Default::default(),
        last_error: None,
        handlers: vec![],
    };
    Report {
        publisher: Reply {
            url: "http://p".to_owned(),
            result: ReplyResult::Answer(Heads { heads: vec![head] }),
        },
        replica_list: None,
        open_dead_letters: None,
        not_ready: None,
        unfinished_restores: Vec::new(),
        replicas: vec![Reply {
            url: "http://s".to_owned(),
            result: ReplyResult::Answer(status),
        }],
    }
}

/// The row of a replica in the short form.
fn row_of(report: &Report, name: &str) -> String {
    let table = report.replica_table().text();
    let mut rows = table.lines().filter(|line| line.contains(name));
    rows.next().expect("a row of the replica").to_owned()
}

#[test]
fn healthy_means_current_and_equal() {
    let failures = |state, revision, digest| report(state, revision, digest).failures(false);
    assert!(failures(ReplicaState::Current, 7, 0).is_empty());
    assert!(
        failures(ReplicaState::Current, 6, 5).is_empty(),
        "on its way: digests are not comparable"
    );
    assert_eq!(
        failures(ReplicaState::Current, 7, 5),
        ["A of subscriber-1 is different from the publisher"]
    );
    assert_eq!(
        failures(ReplicaState::Stale, 7, 0),
        ["A of subscriber-1 is stale"]
    );
}

/// Before a publisher has named its collections a replica has no row that could say `loading`.
#[test]
fn a_replica_that_has_loaded_nothing_is_loading_and_a_failure() {
    let mut asked = report(ReplicaState::Loading, 0, 0);
    let ReplyResult::Answer(status) = &mut asked.replicas[0].result else {
        panic!("the replica answered");
    };
    status.collections.clear();
    let mut empty = record("subscriber-1", None, 0);
    empty.check_in.collections.clear();
    let listed = Report {
        replica_list: Some(Reply {
            url: "http://p".to_owned(),
            result: ReplyResult::Answer(ReplicaList {
                replicas: vec![empty],
                backlog: None,
                next: None,
            }),
        }),
        replicas: vec![],
        ..report(ReplicaState::Current, 7, 0)
    };
    for report in [asked, listed] {
        assert!(report.summary().starts_with("1 replica, 0 current; "));
        let row = row_of(&report, "subscriber-1");
        assert!(row.contains("loading") && row.contains('?'), "{row}");
        let long = report.collection_table().text();
        assert!(long.contains("loading"), "{long}");
        assert_eq!(report.failures(false), ["subscriber-1 is loading"]);
    }
}

#[test]
fn only_a_replica_with_a_sidecar_is_told_to_restart_it() {
    let line = |transport| {
        let mut record = record("subscriber-1", None, 7);
        record.check_in.transport = transport;
        record.check_in.topics_not_subscribed = ["B".parse().expect("a name")].into();
        ReplicaView::checked_in(&record, &[]).late_topics_line()
    };
    let of_sidecar = line(Some(Transport::Dapr)).expect("a line");
    assert!(
        of_sidecar.starts_with("subscriber-1: B: the sidecar"),
        "{of_sidecar}"
    );
    assert!(line(None).is_some_and(|line| line.contains("where a sidecar posts")));
    // An older replica names topics with every transport.
    assert_eq!(line(Some(Transport::Local)), None);
}

#[test]
fn refused_values_and_failing_handlers_are_failures() {
    let refusal = RefusedValue {
        id: "a".parse().expect("an id"),
        revision: 7,
        pointer: "/port".to_owned(),
        error: "expected a number".to_owned(),
    };
    let handler = |state| HandlerStatus {
        name: "A".to_owned(),
        collection: "A".parse().expect("a name"),
        state,
        revision: 0,
        error: Some("no disk".to_owned()),
    };
    let refused = "subscriber-1: A/a at revision 7 is refused at \"/port\": expected a number";

    let mut asked = report(ReplicaState::Current, 7, 0);
    let ReplyResult::Answer(status) = &mut asked.replicas[0].result else {
        panic!("the replica answered");
    };
    status.handlers = vec![handler(HandlerState::Waiting)];
    assert!(asked.failures(true).is_empty(), "a handler that waits");
    let ReplyResult::Answer(status) = &mut asked.replicas[0].result else {
        panic!("the replica answered");
    };
    status.collections[0].refusals = vec![refusal.clone()];
    assert_eq!(asked.failures(false), [refused]);
    let row = row_of(&asked, "subscriber-1");
    assert!(row.contains("1 refused or failing in its service"), "{row}");

    let mut listed = record("one", None, 1);
    listed.check_in.handlers = vec![handler(HandlerState::Failing)];
    let view = ReplicaView::checked_in(&listed, &[]);
    assert_eq!(view.failures(), ["one: the handler A fails: no disk"]);
    for report in listed.check_in.collections.values_mut() {
        report.refusals = vec![refusal.clone()];
    }
    let view = ReplicaView::checked_in(&listed, &[]);
    assert_eq!(
        view.failures(),
        ["one has 2 refused values and failing handlers"]
    );
    listed.gone = true;
    assert!(ReplicaView::checked_in(&listed, &[]).failures().is_empty());
}

#[test]
fn what_a_report_has_no_room_for_is_counted() {
    let mut listed = record("one", None, 1);
    listed.check_in.failing_handlers = 2;
    for report in listed.check_in.collections.values_mut() {
        report.refused_values = 1_002;
        report.refusals = vec![RefusedValue {
            id: "a".parse().expect("an id"),
            revision: 7,
            pointer: String::new(),
            error: "no object".to_owned(),
        }];
    }
    let view = ReplicaView::checked_in(&listed, &[]);
    assert_eq!(
        view.unusable.lines,
        [
            "ChannelConfiguration/a at revision 7 is refused at \"\": no object",
            "and 1001 more refused values of ChannelConfiguration",
            "and 2 more failing handlers",
        ]
    );
    assert_eq!(
        view.failures(),
        ["one has 1004 refused values and failing handlers"]
    );
    assert!(reasons::reason(&view).contains("1004 refused or failing"));
}

#[test]
fn a_partial_state_and_a_last_error_are_failures() {
    let mut asked = report(ReplicaState::Partial, 7, 0);
    let row = row_of(&asked, "subscriber-1");
    assert!(
        row.contains("partial") && row.contains("never had a value"),
        "{row}"
    );
    assert_eq!(asked.failures(false), ["A of subscriber-1 is partial"]);
    let ReplyResult::Answer(status) = &mut asked.replicas[0].result else {
        panic!("the replica answered");
    };
    status.state = ReplicaState::Current;
    status.collections[0].state = ReplicaState::Current;
    status.last_error = Some("no route".to_owned());
    assert_eq!(
        asked.failures(false),
        ["subscriber-1 reports an error: no route"]
    );
    let row = row_of(&asked, "subscriber-1");
    assert!(row.contains("it reports an error: no route"), "{row}");

    let mut listed = record("one", None, 1);
    listed.check_in.last_error = Some("no route".to_owned());
    assert_eq!(
        ReplicaView::checked_in(&listed, &[]).failures(),
        ["one reports an error: no route"]
    );
}

#[test]
fn the_failures_of_thousands_of_replicas_are_a_short_line() {
    let failures = vec!["replica-1 reports an error: no route".to_owned(); 3];
    assert_eq!(in_short(&failures), failures.join("; "));
    let failures: Vec<String> = (0..1_200).map(|_| "ä".repeat(2_000)).collect();
    let line = in_short(&failures);
    assert!(line.ends_with("ä…; 1180 more"), "{line}");
    assert!(line.chars().count() < 20 * 510);
}

#[test]
fn the_remedy_of_an_intake_fault_fits_the_transport() {
    let deaf = |name: &str, url: Option<&str>, transport| {
        let mut record = record(name, url, 1);
        record.check_in.intake = Some(IntakeFault::NotReceiving);
        record.check_in.transport = transport;
        ReplicaView::checked_in(&record, &[])
    };
    let remedies = |rows: &[ReplicaView]| reasons::remedies(intake_faults(rows)).join("\n");
    let everywhere = remedies(&[
        deaf("one", None, Some(Transport::Local)),
        deaf("two", None, Some(Transport::Local)),
    ]);
    assert!(
        everywhere.starts_with("not-receiving: one, two: ")
            && everywhere.contains("Set AURA_CONFIGURATION_BASE_URL")
            && everywhere.lines().count() == 1,
        "{everywhere}"
    );
    let reached = remedies(&[deaf("one", Some("http://h:1"), Some(Transport::Local))]);
    assert!(
        reached.contains("AURA_CONFIGURATION_LOCAL_ALLOW") && !reached.contains("Redis"),
        "{reached}"
    );
    let dapr = remedies(&[deaf("one", None, Some(Transport::Dapr))]);
    assert!(
        dapr.contains("sidecar") && !dapr.contains("AURA_CONFIGURATION_BASE_URL"),
        "{dapr}"
    );
    // What its publisher knows counts at once; the replica needs 64 changes to notice.
    let mut refused = record("one", Some("http://h:1"), 1);
    refused.undelivered = Some("it answered 401".to_owned());
    let refused = ReplicaView::checked_in(&refused, &[]);
    assert_eq!(refused.intake_fault, Some(IntakeFault::NotReceiving));
    let refused = remedies(&[refused]);
    assert!(refused.ends_with("one: the publisher posts no events to it: it answered 401"));
    let older = remedies(&[deaf("one", None, None)]);
    assert!(
        ["LOCAL:", "DAPR:", "REDIS:"]
            .iter()
            .all(|name| older.contains(name)),
        "{older}"
    );
}

#[test]
fn a_collection_that_no_replica_follows_is_named() {
    let mut report = report(ReplicaState::Current, 7, 0);
    assert!(report.unfollowed(&report.replica_rows()).is_empty());
    let ReplyResult::Answer(heads) = &mut report.publisher.result else {
        panic!("the publisher answered");
    };
    heads.heads.push(Head {
        collection: "Mine".parse().expect("a name"),
        ..heads.heads[0].clone()
    });
    let rows = report.replica_rows();
    assert_eq!(report.unfollowed(&rows), ["Mine"]);
    assert!(report.failures(false).is_empty());
    assert_eq!(report.failures(true), ["no replica follows Mine"]);
}

#[test]
fn a_healthy_replica_is_one_row_without_a_reason() {
    let report = report(ReplicaState::Current, 7, 0);
    assert_eq!(
        report.summary(),
        "1 replica, 1 current; publisher http://p at A 7 (epoch 0f86d081-1)"
    );
    let row = row_of(&report, "subscriber-1");
    let cells: Vec<_> = row.split(['│', '┆']).map(str::trim).collect();
    assert_eq!(
        cells,
        ["", "subscriber-1", "current", "0", "ok", "now", "", ""]
    );
}

#[test]
fn the_lag_is_the_sum_over_all_collections() {
    let mut report = report(ReplicaState::Behind, 5, 0);
    let row = row_of(&report, "subscriber-1");
    assert!(row.contains("2 in 1 collection "), "{row}");
    assert!(row.contains("it lacks revisions that it knows of"), "{row}");

    let other: CollectionName = "B".parse().expect("a name");
    let ReplyResult::Answer(heads) = &mut report.publisher.result else {
        panic!("the publisher answered");
    };
    heads.heads.push(Head {
        collection: other.clone(),
        revision: 10,
        ..heads.heads[0].clone()
    });
    let ReplyResult::Answer(status) = &mut report.replicas[0].result else {
        panic!("the replica answered");
    };
    status.collections.push(CollectionStatus {
        collection: other,
        revision: 0,
        ..status.collections[0].clone()
    });
    let row = row_of(&report, "subscriber-1");
    assert!(row.contains("12 in 2 collections"), "{row}");

    let ReplyResult::Answer(status) = &mut report.replicas[0].result else {
        panic!("the replica answered");
    };
    status.epoch = Some("0f86d081-2".parse().expect("an epoch"));
    let row = row_of(&report, "subscriber-1");
    assert!(row.contains("┆ ? "), "other histories: {row}");
}

#[test]
fn a_reason_names_its_collections_and_the_remedy() {
    let mut report = report(ReplicaState::Stale, 7, 0);
    let ReplyResult::Answer(status) = &mut report.replicas[0].result else {
        panic!("the replica answered");
    };
    status.collections[0].reason = Some("other-store".to_owned());
    let row = row_of(&report, "subscriber-1");
    assert!(
        row.contains(" the publisher has another store")
            && row.contains("confcast backup create")
            && row.contains("restore-epoch --adopt"),
        "{row}"
    );
    let ReplyResult::Answer(status) = &mut report.replicas[0].result else {
        panic!("the replica answered");
    };
    status.collections.push(CollectionStatus {
        collection: "B".parse().expect("a name"),
        state: ReplicaState::Current,
        reason: None,
        ..status.collections[0].clone()
    });
    let row = row_of(&report, "subscriber-1");
    assert!(row.contains(" A: the publisher has another store"), "{row}");
}

#[test]
fn the_words_of_a_publisher_that_refuses_a_replica_are_shown() {
    let mut report = report(ReplicaState::Loading, 0, 0);
    let ReplyResult::Answer(status) = &mut report.replicas[0].result else {
        panic!("the replica answered");
    };
    let error = "http://p answered: Unauthorized (401): the token is wrong\u{1b}[2J";
    status.last_error = Some(error.to_owned());
    let row = row_of(&report, "subscriber-1");
    assert!(
        row.contains("Unauthorized (401): the token is wrong"),
        "{row}"
    );
    assert!(!row.contains('\u{1b}'), "{row}");
}

#[test]
fn unreachable_replicas_are_shown() {
    let mut report = report(ReplicaState::Current, 7, 0);
    report.replicas.push(Reply {
        url: "http://gone".to_owned(),
        result: ReplyResult::Error("cannot reach it".to_owned()),
    });
    assert_eq!(report.failures(false), ["http://gone does not answer"]);
    let table = report.collection_table().text();
    assert!(
        table.contains("7/7") && table.contains("unreachable") && table.contains("cannot reach it"),
        "{table}"
    );
    let row = row_of(&report, "http://gone");
    assert!(
        row.contains("unreachable") && row.contains("cannot reach it"),
        "{row}"
    );
    assert!(report.summary().starts_with("2 replicas, 1 current; "));
    let json = serde_json::to_value(&report).expect("json");
    assert_eq!(json["replicas"][1]["error"], "cannot reach it");
    assert_eq!(json["replicas"][0]["answer"]["instance"], "subscriber-1");
}

/// The report without named replicas, of a publisher at revision 1 with these replicas.
async fn report_of(publisher: &FakePublisher, replicas: Vec<ReplicaRecord>) -> Report {
    let name = "ChannelConfiguration".parse().expect("valid");
    let id = "a".parse().expect("valid");
    publisher
        .endpoint()
        .put_or_create(&name, &id, b"{}")
        .await
        .expect("written");
    publisher.has_replicas(replicas);
    gathered(&publisher.endpoint()).await
}

async fn gathered(publisher: &Endpoint) -> Report {
    Report::gather(publisher, &Subscribers { named: vec![] })
        .await
        .expect("a report")
}

#[tokio::test]
async fn replicas_are_those_that_checked_in() {
    let publisher = FakePublisher::start().await;
    let mut deaf = record("two", None, 0);
    deaf.check_in.intake = Some(IntakeFault::NotReceiving);
    let report = report_of(
        &publisher,
        vec![
            record("one", Some("http://one:1"), 0),
            deaf,
            gone("old", None),
        ],
    )
    .await;
    assert!(report.replicas.is_empty(), "no replica is asked");
    assert_eq!(report.failures(false), Vec::<String>::new());
    assert_eq!(
        report.failures(true),
        ["old is gone", "two is not-receiving"]
    );
    let table = report.collection_table().text();
    assert!(
        table.contains("http://one:1")
            && table.contains("0 s ago")
            && table.contains("gone, 0 s ago"),
        "{table}"
    );
    assert!(report.summary().starts_with("3 replicas, 2 current; "));
    let row = row_of(&report, "two");
    assert!(
        row.contains("not-receiving") && row.contains("see below"),
        "{row}"
    );
    let row = row_of(&report, "old");
    assert!(
        row.contains("gone") && row.contains("silent for more than three check-in intervals"),
        "{row}"
    );
    let rows = report.replica_rows();
    let remedies = reasons::remedies(intake_faults(&rows));
    assert!(
        matches!(&remedies[..], [remedy] if remedy.starts_with("not-receiving: two: none of the last")),
        "{remedies:?}"
    );
    let json = serde_json::to_value(&report).expect("json");
    assert_eq!(json["replicaList"]["answer"]["replicas"][2]["gone"], true);
}

#[tokio::test]
async fn reported_states_and_digests_can_be_failures() {
    let publisher = FakePublisher::start().await;
    let mut stale = record("stale", None, 0);
    for report in stale.check_in.collections.values_mut() {
        report.state = ReplicaState::Stale;
    }
    // It has seen revision 1, but its digest is that of an empty collection.
    let report = report_of(&publisher, vec![record("other", None, 1), stale]).await;
    let name = "ChannelConfiguration";
    let failures = [
        format!("{name} of other is different from the publisher"),
        format!("{name} of stale is stale"),
    ];
    assert_eq!(report.failures(false), failures);
    let row = row_of(&report, "other");
    assert!(
        row.contains("different") && row.contains("confcast verify"),
        "{row}"
    );
}

#[tokio::test]
async fn an_empty_replica_list_is_a_strict_failure() {
    let report = report_of(&FakePublisher::start().await, vec![]).await;
    assert_eq!(
        (report.failures(false), report.failures(true)),
        (vec![], vec!["no replica has checked in".to_owned()])
    );
}

#[tokio::test]
async fn named_replicas_are_asked_and_an_older_publisher_is_supported() {
    let publisher = FakePublisher::start().await;
    let replica = FakePublisher::start().await;
    let old = gathered(&publisher.endpoint()).await;
    assert!(
        old.replica_list.is_none() && old.replicas.len() == 2,
        "as `confcast up` starts them: {old:?}"
    );
    publisher.has_replicas(vec![gone("old", None)]);
    let named = vec![replica.url().parse().expect("a URL")];
    let report = Report::gather(&publisher.endpoint(), &Subscribers { named })
        .await
        .expect("a report");
    assert!(
        report.replica_list.is_none() && report.failures(true).is_empty(),
        "{report:?}"
    );
    assert!(report.has_replicas());
    for table in [report.replica_table(), report.collection_table()] {
        let text = table.text();
        assert!(text.contains("fake-replica"), "{text}");
    }
}

#[tokio::test]
async fn a_publisher_that_is_not_ready_is_a_failure_with_its_reason() {
    let publisher = FakePublisher::start().await;
    assert!(gathered(&publisher.endpoint()).await.not_ready.is_none());
    publisher.is_not_ready("the disk is full");
    let report = gathered(&publisher.endpoint()).await;
    let failures = report.failures(false);
    assert_eq!(failures[0], "the publisher is not ready: the disk is full");
}

#[tokio::test]
async fn an_unreachable_publisher_is_reported_once() {
    let publisher = FakePublisher::start().await.endpoint();
    let report = gathered(&publisher).await;
    assert_eq!(report.failures(true), ["the publisher does not answer"]);
    assert!(!report.has_replicas());
    assert!(report.summary().contains("cannot reach http://127.0.0.1"));
}

#[test]
fn events_that_are_behind_the_feed_are_shown_and_are_no_failure() {
    let mut asked = report(ReplicaState::Current, 7, 0);
    let ReplyResult::Answer(status) = &mut asked.replicas[0].result else {
        panic!("the replica answered");
    };
    status.events_behind = 12;
    let mut behind = record("subscriber-1", None, 7);
    behind.check_in.events_behind = 12;
    let listed = Report {
        replica_list: Some(Reply {
            url: "http://p".to_owned(),
            result: ReplyResult::Answer(ReplicaList {
                replicas: vec![behind],
                backlog: None,
                next: None,
            }),
        }),
        replicas: vec![],
        ..report(ReplicaState::Current, 7, 0)
    };
    for report in [asked, listed] {
        let row = row_of(&report, "subscriber-1");
        assert!(row.contains("12 behind"), "{row}");
        assert!(report.collection_table().text().contains("12 behind"));
        assert!(report.failures(false).is_empty());
    }
    let line = |pending, oldest_ms| backlog_line(EventBacklog { pending, oldest_ms });
    assert_eq!(line(4, 100), None, "they are being published");
    let shown = line(4, 2_500).expect("a line");
    assert!(
        shown.contains("4 are not published, the oldest for 2 s"),
        "{shown}"
    );
    let shown = line(MAX_BACKLOG, 2_500).expect("a line");
    assert!(shown.contains("at least 10000"), "{shown}");
}
