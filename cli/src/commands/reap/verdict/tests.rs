//! Cases of one or two groups each: which groups must never be judged gone, and which are.

use broker::groups::Consumer;

use super::*;
use crate::fake_publisher::replicas::{gone, record};

const UUID: &str = "494f538f-9864-4315-ab7a-f32b64dfb8df";
const NEXT: &str = "8af23ed3-3b99-471c-8d31-fef8566e619f";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A group of a sidecar that read `idle` seconds ago, if ever, and has left an event unread for
/// `unread` seconds.
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
fn observation(groups: &[(&str, Group)], replicas: &[&str]) -> Observation {
    let mut by_name: BTreeMap<String, BTreeMap<CollectionName, Group>> = BTreeMap::new();
    for (stream, group) in groups {
        let streams = by_name.entry(group.name.clone()).or_default();
        streams.insert(stream.parse().expect("a name"), group.clone());
    }
    let replicas = replicas.iter().map(|name| {
        name.strip_prefix('-')
            .map_or_else(|| record(name, None, 1), |name| gone(name, None))
    });
    Observation {
        groups: by_name,
        replicas: replicas.collect(),
    }
}

fn rule() -> Rule {
    Rule {
        patterns: vec!["pod-*".parse().expect("a pattern")],
        idle: seconds(60),
    }
}

fn verdicts(observation: &Observation) -> Vec<GroupVerdict> {
    judge(observation, observation, &rule())
        .into_iter()
        .map(|judged| judged.verdict)
        .collect()
}

#[test]
fn verdicts_on_one_group() {
    // A live replica that has its own group, so that no group is kept for it.
    let replicas = ["own"];
    let old = Some(600);
    for (case, group, replicas, expected) in [
        (
            "dead, an event unread",
            group(UUID, old, old),
            &replicas[..],
            GroupVerdict::Gone,
        ),
        (
            "dead, never read",
            group(UUID, None, old),
            &replicas,
            GroupVerdict::Gone,
        ),
        (
            "live or dead, nothing unread",
            group(UUID, old, None),
            &replicas,
            GroupVerdict::Quiet,
        ),
        (
            "created just now, nothing to read",
            group(UUID, None, None),
            &replicas,
            GroupVerdict::Quiet,
        ),
        (
            "an event arrived just now",
            group(UUID, old, Some(1)),
            &replicas,
            GroupVerdict::Quiet,
        ),
        (
            "slow: reads, and has much to read",
            group(UUID, Some(30), old),
            &replicas,
            GroupVerdict::Live,
        ),
        (
            "a pod that was scaled away",
            group("pod-3", old, old),
            &["own", "-pod-3:8080"],
            GroupVerdict::Gone,
        ),
        (
            "a pod that was forgotten",
            group("pod-3", old, old),
            &replicas,
            GroupVerdict::Gone,
        ),
        (
            "a pod that checks in and whose sidecar hangs",
            group("pod-3", old, old),
            &["own", "pod-3:8080"],
            GroupVerdict::Live,
        ),
        (
            "a replica with the name of the group",
            group(UUID, old, old),
            &["own", UUID],
            GroupVerdict::Live,
        ),
        (
            "a pod, and another that has no group yet",
            group("pod-3", old, old),
            &["own", "pod-33:8080"],
            GroupVerdict::Unsure,
        ),
        (
            "a group that replicas share",
            group("aura-configuration-subscriber", old, old),
            &replicas,
            GroupVerdict::Other,
        ),
        (
            "pods of another service",
            group("billing-0", old, old),
            &replicas,
            GroupVerdict::Other,
        ),
    ] {
        let live = self::group("own", Some(1), None);
        let found = judge_named(
            &observation(&[("A", live), ("A", group.clone())], replicas),
            &group.name,
        );
        assert_eq!(found, expected, "{case}");
    }
}

fn judge_named(observation: &Observation, name: &str) -> GroupVerdict {
    let judged = judge(observation, observation, &rule());
    judged
        .into_iter()
        .find(|judged| judged.group == name)
        .expect("judged")
        .verdict
}

#[test]
fn a_group_that_another_client_reads_is_never_gone() {
    let mut foreign = group(UUID, Some(600), Some(600));
    foreign.consumers[0].name = "worker-1".to_owned();
    let own = group("own", Some(1), None);
    assert_eq!(
        judge_named(&observation(&[("A", foreign), ("A", own)], &["own"]), UUID),
        GroupVerdict::Other
    );
}

#[test]
fn all_streams_of_a_sidecar_are_judged_together() {
    let own = || ("A", group("own", Some(1), None));
    let unread = || ("A", group(UUID, Some(600), Some(600)));
    // Nothing arrived in B, so B alone would decide nothing.
    let dead = observation(&[own(), unread(), ("B", group(UUID, None, None))], &["own"]);
    let judged = judge(&dead, &dead, &rule()).remove(0);
    assert_eq!(
        (judged.verdict, judged.pending, judged.collections.len()),
        (GroupVerdict::Gone, 2, 2)
    );
    let reads_elsewhere = observation(
        &[own(), unread(), ("B", group(UUID, Some(1), None))],
        &["own"],
    );
    assert_eq!(judge_named(&reads_elsewhere, UUID), GroupVerdict::Live);
}

#[test]
fn no_group_is_gone_when_no_replica_is_live() {
    for replicas in [&[][..], &["-pod-0"]] {
        let found = verdicts(&observation(
            &[("A", group(UUID, Some(600), Some(600)))],
            replicas,
        ));
        assert_eq!(found, [GroupVerdict::Unsure], "{replicas:?}");
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
        verdicts(&observation(&groups, &["a", "b"])),
        [GroupVerdict::Live, GroupVerdict::Gone, GroupVerdict::Unsure]
    );
    assert_eq!(
        verdicts(&observation(&groups, &["a"])),
        [GroupVerdict::Live, GroupVerdict::Gone, GroupVerdict::Gone]
    );
    assert_eq!(
        verdicts(&observation(&groups, &["a", "-b"])),
        [GroupVerdict::Live, GroupVerdict::Gone, GroupVerdict::Gone]
    );
    assert_eq!(
        verdicts(&observation(&groups, &["a", "b", "c"])),
        [
            GroupVerdict::Live,
            GroupVerdict::Unsure,
            GroupVerdict::Unsure
        ]
    );
}

#[test]
fn a_group_that_changes_between_the_observations_is_not_gone() {
    let own = ("A", group("own", Some(1), None));
    let dead = || group(UUID, Some(600), Some(600));
    let first = observation(&[own.clone(), ("A", dead())], &["own"]);
    let read = Group {
        last_delivered: "6-0".to_owned(),
        ..dead()
    };
    let checked_in = observation(&[own.clone(), ("A", dead())], &["own", UUID]);
    let subscribed = observation(&[own.clone(), ("A", dead()), ("B", dead())], &["own"]);
    for second in [
        observation(&[own, ("A", read)], &["own"]),
        checked_in,
        subscribed,
    ] {
        for (one, other) in [(&first, &second), (&second, &first)] {
            let judged = judge(one, other, &rule()).remove(0);
            assert_eq!(
                (judged.group.as_str(), judged.verdict),
                (UUID, GroupVerdict::Live),
                "{second:?}"
            );
        }
    }
}
