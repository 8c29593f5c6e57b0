//! The fixtures in `tests/fixtures/` are the texts that publisher and subscriber exchange. Both ends
//! read the same files in their own tests; here each is parsed and serialised without a difference.

use contract::{
    CanonicalJson, Problem, ProblemKind,
    event::EventData,
    fleet::{CheckIn, CheckInAnswer},
    sidecar::{EventReply, EventReplyStatus, Subscription},
    snapshot::{SnapshotEnd, SnapshotError, SnapshotLine, SnapshotProof, SnapshotStart},
};
use serde::{Serialize, de::DeserializeOwned};

/// Parses a fixture, and asserts that serialising gives the same JSON.
fn round_trip<T: DeserializeOwned + Serialize>(fixture: &str) -> T {
    let parsed: T = serde_json::from_str(fixture).expect("the fixture is parsed");
    let written = serde_json::to_string(&parsed).expect("serialised");
    let canonical = |text: &str| CanonicalJson::parse(text.as_bytes()).expect("JSON");
    assert_eq!(canonical(&written), canonical(fixture));
    parsed
}

#[test]
fn the_data_of_an_event() {
    let event: serde_json::Value =
        serde_json::from_str(include_str!("fixtures/event.json")).expect("JSON");
    let data: EventData = round_trip(&event["data"].to_string());
    let value = data.config_data.expect("a value");
    assert_eq!(Some(value.crc()), data.crc);
}

#[test]
fn the_answers_to_an_event() {
    let success: EventReply = round_trip(include_str!("fixtures/event-reply-success.json"));
    let drop: EventReply = round_trip(include_str!("fixtures/event-reply-drop.json"));
    assert_eq!(
        [success.status, drop.status],
        [EventReplyStatus::Success, EventReplyStatus::Drop]
    );
}

#[test]
fn the_subscriptions_of_a_subscriber() {
    let given: Vec<Subscription> = round_trip(include_str!("fixtures/subscriptions.json"));
    let collection = "ChannelConfiguration".parse().expect("a name");
    assert_eq!(given, [Subscription::new("pubsub-config", &collection)]);
}

#[test]
fn a_check_in_and_its_answer() {
    let check_in: CheckIn = round_trip(include_str!("fixtures/check-in.json"));
    let answer: CheckInAnswer = round_trip(include_str!("fixtures/check-in-answer.json"));
    assert_eq!(check_in.collections.len(), answer.heads.len());
}

#[test]
fn a_problem() {
    let problem: Problem = round_trip(include_str!("fixtures/problem.json"));
    assert_eq!(problem.kind, ProblemKind::ConditionFailed);
    assert_eq!(problem.status, problem.kind.status());
}

/// Reads the snapshot fixture, after a change to its lines.
fn prove(lines: &[&str]) -> Result<SnapshotStart, SnapshotError> {
    let start = serde_json::from_str(lines[0]).expect("a start line");
    let mut proof = SnapshotProof::begin(start);
    for line in &lines[1..] {
        match SnapshotLine::parse(line.as_bytes()).expect("a line") {
            SnapshotLine::Item(item) => proof.item(&item)?,
            SnapshotLine::End(end) => return proof.finish(&end),
        }
    }
    // A snapshot without an end line cannot be finished; a wrong end line is the closest case.
    proof.finish(&SnapshotEnd {
        end: true,
        count: u64::MAX,
    })
}

#[test]
fn a_complete_snapshot_is_proven_and_a_changed_one_is_not() {
    let lines: Vec<_> = include_str!("fixtures/snapshot.ndjson").lines().collect();
    let proven = prove(&lines).expect("complete");
    assert_eq!(proven.heads.len(), 1);

    let mut without_an_item = lines.clone();
    without_an_item.remove(1);
    assert!(matches!(
        prove(&without_an_item),
        Err(SnapshotError::Count { .. })
    ));

    let damaged = lines[1].replace("Hello", "Hullo");
    let mut changed = lines.clone();
    changed[1] = &damaged;
    assert!(matches!(
        prove(&changed),
        Err(SnapshotError::Damaged { .. })
    ));

    let older = lines[1].replace(r#""revision":1,"#, r#""revision":9,"#);
    changed[1] = &older;
    assert!(matches!(prove(&changed), Err(SnapshotError::Digest { .. })));

    // One that was not announced is refused where it comes, and not at the end.
    let another = lines[1].replace(r#""id":""#, r#""id":"another-"#);
    assert!(matches!(
        prove(&[lines[0], lines[1], &another]),
        Err(SnapshotError::TooMany { count: 1, .. })
    ));

    let not_the_end = lines[2].replace("true", "false");
    let mut changed = lines.clone();
    changed[2] = &not_the_end;
    assert_eq!(prove(&changed), Err(SnapshotError::NotTheEnd));

    let mixed = lines[0].replacen("9f86d081-1", "9f86d081-2", 1);
    let mut changed = lines.clone();
    changed[0] = &mixed;
    assert!(matches!(prove(&changed), Err(SnapshotError::Epoch(_))));
}
