//! Cases, one group or two each: what must never be called gone, and what is.

use broker::groups::Consumer;

use super::*;
use crate::stand_in::fleet::{gone, member};

const UUID: &str = "494f538f-9864-4315-ab7a-f32b64dfb8df";
const NEXT: &str = "8af23ed3-3b99-471c-8d31-fef8566e619f";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A group of a sidecar that read `idle` seconds ago, if ever, and leaves something unread for so
/// many seconds.
fn group(name: &str, idle: Option<u64>, unread: Option<u64>) -> Group {
    let consumers = idle.map(|idle| Consumer {
        name: name.to_owned(),
        idle: seconds(idle),
    });
    Group {
        name: name.to_owned(),
        consumers: consumers.into_iter().collect(),
        pending: 1,
        last_delivered: "5-0".to_owned(),
        unread: unread.map(seconds),
    }
}

/// Groups in streams, and replicas: live ones, and those whose name begins with `-`, which are
/// gone.
fn look(groups: &[(&str, Group)], fleet: &[&str]) -> Look {
    let mut by_name: BTreeMap<String, BTreeMap<CollectionName, Group>> = BTreeMap::new();
    for (stream, group) in groups {
        let streams = by_name.entry(group.name.clone()).or_default();
        streams.insert(stream.parse().expect("a name"), group.clone());
    }
    let replicas = fleet.iter().map(|name| {
        name.strip_prefix('-')
            .map_or_else(|| member(name, None, 1), |name| gone(name, None))
    });
    Look {
        groups: by_name,
        fleet: ReplicaList {
            replicas: replicas.collect(),
        },
    }
}

fn rule() -> Rule {
    Rule {
        patterns: vec!["pod-*".parse().expect("a pattern")],
        idle: seconds(60),
    }
}

fn verdicts(look: &Look) -> Vec<Verdict> {
    judge(look, look, &rule())
        .into_iter()
        .map(|judged| judged.verdict)
        .collect()
}

#[test]
fn one_group() {
    // A live replica that has its own group, so that nothing is held back for it.
    let fleet = ["own"];
    let old = Some(600);
    for (case, group, fleet, expected) in [
        (
            "dead, an event unread",
            group(UUID, old, old),
            &fleet[..],
            Verdict::Gone,
        ),
        (
            "dead, never read",
            group(UUID, None, old),
            &fleet,
            Verdict::Gone,
        ),
        (
            "live or dead, nothing unread",
            group(UUID, old, None),
            &fleet,
            Verdict::Quiet,
        ),
        (
            "made just now, nothing there",
            group(UUID, None, None),
            &fleet,
            Verdict::Quiet,
        ),
        (
            "an event came just now",
            group(UUID, old, Some(1)),
            &fleet,
            Verdict::Quiet,
        ),
        (
            "slow: reads, and has much to read",
            group(UUID, Some(30), old),
            &fleet,
            Verdict::Live,
        ),
        (
            "a pod that was scaled away",
            group("pod-3", old, old),
            &["own", "-pod-3:8080"],
            Verdict::Gone,
        ),
        (
            "a pod that was forgotten",
            group("pod-3", old, old),
            &fleet,
            Verdict::Gone,
        ),
        (
            "a pod that checks in and whose sidecar hangs",
            group("pod-3", old, old),
            &["own", "pod-3:8080"],
            Verdict::Live,
        ),
        (
            "a replica that is named so",
            group(UUID, old, old),
            &["own", UUID],
            Verdict::Live,
        ),
        (
            "a pod, and another that has no group yet",
            group("pod-3", old, old),
            &["own", "pod-33:8080"],
            Verdict::Unsure,
        ),
        (
            "a group that replicas share",
            group("aura-configuration-subscriber", old, old),
            &fleet,
            Verdict::Other,
        ),
        (
            "pods of another service",
            group("billing-0", old, old),
            &fleet,
            Verdict::Other,
        ),
    ] {
        let live = self::group("own", Some(1), None);
        let found = judge_named(
            &look(&[("A", live), ("A", group.clone())], fleet),
            &group.name,
        );
        assert_eq!(found, expected, "{case}");
    }
}

fn judge_named(look: &Look, name: &str) -> Verdict {
    let judged = judge(look, look, &rule());
    judged
        .into_iter()
        .find(|judged| judged.group == name)
        .expect("judged")
        .verdict
}

#[test]
fn what_another_client_reads_is_not_ours() {
    let mut foreign = group(UUID, Some(600), Some(600));
    foreign.consumers[0].name = "worker-1".to_owned();
    let own = group("own", Some(1), None);
    assert_eq!(
        judge_named(&look(&[("A", foreign), ("A", own)], &["own"]), UUID),
        Verdict::Other
    );
}

#[test]
fn all_streams_of_a_sidecar_are_judged_together() {
    let own = || ("A", group("own", Some(1), None));
    let unread = || ("A", group(UUID, Some(600), Some(600)));
    // Nothing came in B, so B alone would tell nothing.
    let dead = look(&[own(), unread(), ("B", group(UUID, None, None))], &["own"]);
    let judged = judge(&dead, &dead, &rule()).remove(0);
    assert_eq!(
        (judged.verdict, judged.pending, judged.collections.len()),
        (Verdict::Gone, 2, 2)
    );
    let reads_elsewhere = look(
        &[own(), unread(), ("B", group(UUID, Some(1), None))],
        &["own"],
    );
    assert_eq!(judge_named(&reads_elsewhere, UUID), Verdict::Live);
}

#[test]
fn nothing_is_gone_where_nobody_is_live() {
    for fleet in [&[][..], &["-pod-0"]] {
        let found = verdicts(&look(&[("A", group(UUID, Some(600), Some(600)))], fleet));
        assert_eq!(found, [Verdict::Unsure], "{fleet:?}");
    }
}

#[test]
fn a_live_replica_without_a_group_that_is_read_keeps_one() {
    let dead = |name: &str, idle: u64| ("A", group(name, Some(idle), Some(idle)));
    // Two replicas, one sidecar that reads: the youngest of the others may be cut off from Redis.
    let reads = (
        "A",
        group("00000000-0000-4000-8000-000000000000", Some(1), None),
    );
    let groups = [reads, dead(UUID, 900), dead(NEXT, 600)];
    assert_eq!(
        verdicts(&look(&groups, &["a", "b"])),
        [Verdict::Live, Verdict::Gone, Verdict::Unsure]
    );
    assert_eq!(
        verdicts(&look(&groups, &["a"])),
        [Verdict::Live, Verdict::Gone, Verdict::Gone]
    );
    assert_eq!(
        verdicts(&look(&groups, &["a", "-b"])),
        [Verdict::Live, Verdict::Gone, Verdict::Gone]
    );
    assert_eq!(
        verdicts(&look(&groups, &["a", "b", "c"])),
        [Verdict::Live, Verdict::Unsure, Verdict::Unsure]
    );
}

#[test]
fn what_changes_between_the_looks_is_not_gone() {
    let own = ("A", group("own", Some(1), None));
    let dead = || group(UUID, Some(600), Some(600));
    let first = look(&[own.clone(), ("A", dead())], &["own"]);
    let read = Group {
        last_delivered: "6-0".to_owned(),
        ..dead()
    };
    let checked_in = look(&[own.clone(), ("A", dead())], &["own", UUID]);
    let subscribed = look(&[own.clone(), ("A", dead()), ("B", dead())], &["own"]);
    for second in [look(&[own, ("A", read)], &["own"]), checked_in, subscribed] {
        for (one, other) in [(&first, &second), (&second, &first)] {
            let judged = judge(one, other, &rule()).remove(0);
            assert_eq!(
                (judged.group.as_str(), judged.verdict),
                (UUID, Verdict::Live),
                "{second:?}"
            );
        }
    }
}
