//! Which groups belong to replicas that are gone: a pure judgement of two observations of Redis and
//! of the replicas.
//!
//! Measured with daprd 1.14: a sidecar reads with a blocking call that never ends. So the idle time
//! of a live sidecar grows while no event arrives, just as that of a dead one, and proves nothing.
//! An event that stays unread is a proof: a live sidecar reads it within milliseconds. A group in
//! which nothing is unread is never judged gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use broker::groups::Group;
use contract::{CollectionName, fleet::ReplicaRecord};
use serde::{Serialize, Serializer};

use super::names::{Pattern, is_uuid};

/// What is known at one moment. A sidecar has the same group name in all streams.
#[derive(Debug, Clone)]
pub(super) struct Observation {
    pub(super) groups: BTreeMap<String, BTreeMap<CollectionName, Group>>,
    pub(super) replicas: Vec<ReplicaRecord>,
}

/// The rule that the user gives.
#[derive(Debug)]
pub(super) struct Rule {
    /// Per-replica names besides UUIDs.
    pub(super) patterns: Vec<Pattern>,
    /// How long a live sidecar never leaves an event unread.
    pub(super) idle: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum GroupVerdict {
    /// Of a live replica, or read from recently.
    Live,
    /// Not a group of a single replica, as far as is known.
    Other,
    /// Of a live replica or of none: no event has arrived that would decide it.
    Quiet,
    /// It may belong to a live replica whose sidecar does not reach Redis.
    Unsure,
    /// Of no live replica: to be removed.
    Gone,
    /// Removed now.
    Removed,
}

impl GroupVerdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Other => "other",
            Self::Quiet => "quiet",
            Self::Unsure => "unsure",
            Self::Gone => "gone",
            Self::Removed => "removed",
        }
    }
}

/// A group by name, in all streams.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Judged {
    pub(super) group: String,
    pub(super) verdict: GroupVerdict,
    pub(super) reason: String,
    pub(super) collections: Vec<CollectionName>,
    /// Events that were read and not acknowledged.
    pub(super) pending: u64,
    /// Time since a consumer asked for events.
    #[serde(
        rename = "idleMs",
        serialize_with = "milliseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) idle: Option<Duration>,
    /// For how long it has left an event unread.
    #[serde(
        rename = "unreadMs",
        serialize_with = "milliseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) unread: Option<Duration>,
}

/// A group is gone only if it is gone in both observations and nothing was read between them.
pub(super) fn judge(first: &Observation, second: &Observation, rule: &Rule) -> Vec<Judged> {
    let before = judge_one(first, rule);
    let mut after = judge_one(second, rule);
    for judged in after
        .iter_mut()
        .filter(|judged| judged.verdict == GroupVerdict::Gone)
    {
        let earlier = before.iter().find(|earlier| earlier.group == judged.group);
        if earlier.is_none_or(|earlier| earlier.verdict != GroupVerdict::Gone)
            || positions(first, &judged.group) != positions(second, &judged.group)
        {
            judged.verdict = GroupVerdict::Live;
            "it changed between the two observations".clone_into(&mut judged.reason);
        }
    }
    after
}

/// How far a group has read, by stream.
fn positions<'a>(observation: &'a Observation, name: &str) -> Vec<(&'a CollectionName, &'a str)> {
    let streams = observation.groups.get(name).into_iter().flatten();
    streams
        .map(|(stream, group)| (stream, group.last_delivered.as_str()))
        .collect()
}

/// The verdicts that follow from one observation.
fn judge_one(observation: &Observation, rule: &Rule) -> Vec<Judged> {
    let owners = Owners::of(&observation.replicas);
    let mut judged: Vec<Judged> = observation
        .groups
        .iter()
        .map(|(name, streams)| judge_group(name, streams, &owners, rule))
        .collect();
    // Probably the wrong publisher: every group would look as if its replica were gone.
    if owners.live.is_empty() {
        keep_youngest(
            &mut judged,
            usize::MAX,
            "no replica is live: is this the right publisher?",
        );
        return judged;
    }
    // The group of a live replica whose sidecar does not reach Redis looks the same as one that is
    // gone. So one group is kept for each live replica without a group that is known to be read.
    let named = |name: &str| observation.groups.contains_key(name);
    let without = owners
        .live
        .iter()
        .filter(|(instance, host)| !named(instance) && !named(host))
        .count();
    let reading = (judged.iter())
        .filter(|group| group.verdict == GroupVerdict::Live && !owners.own(&group.group))
        .count();
    keep_youngest(
        &mut judged,
        without.saturating_sub(reading),
        "a live replica has no group that was read from recently: this may be its group",
    );
    judged
}

/// Makes the youngest of the groups that are gone `Unsure`, at most `number`.
fn keep_youngest(judged: &mut [Judged], number: usize, reason: &str) {
    let mut gone: Vec<_> = judged
        .iter_mut()
        .filter(|group| group.verdict == GroupVerdict::Gone)
        .collect();
    // A group that never read anything may be the youngest of all.
    gone.sort_by_key(|group| group.idle);
    for group in gone.into_iter().take(number) {
        group.verdict = GroupVerdict::Unsure;
        reason.clone_into(&mut group.reason);
    }
}

/// The verdict on one group, without regard to other groups.
fn judge_group(
    name: &str,
    streams: &BTreeMap<CollectionName, Group>,
    owners: &Owners,
    rule: &Rule,
) -> Judged {
    let consumers = || streams.values().flat_map(|group| &group.consumers);
    let idle = consumers().map(|consumer| consumer.idle).min();
    let unread = streams.values().filter_map(|group| group.unread).max();
    let for_replicas = is_uuid(name) || rule.patterns.iter().any(|pattern| pattern.matches(name));
    let (verdict, reason) = if owners.own(name) {
        (GroupVerdict::Live, "its replica is live".to_owned())
    } else if !for_replicas {
        (
            GroupVerdict::Other,
            "its name is not that of a single replica".to_owned(),
        )
    } else if consumers().any(|consumer| consumer.name != name) {
        (
            GroupVerdict::Other,
            "a consumer that is no sidecar reads from it".to_owned(),
        )
    } else if idle.is_some_and(|idle| idle < rule.idle) {
        (GroupVerdict::Live, "it was read from recently".to_owned())
    } else {
        // Idle for long, which a live sidecar without events is as well: only an unread event decides.
        match unread {
            None => (
                GroupVerdict::Quiet,
                "nothing is unread: the next event decides".to_owned(),
            ),
            Some(unread) if unread < rule.idle => (
                GroupVerdict::Quiet,
                "an event is unread, but not for long enough yet".to_owned(),
            ),
            Some(_long) if owners.gone.contains(name) => {
                (GroupVerdict::Gone, "its replica is gone".to_owned())
            }
            Some(_long) => (
                GroupVerdict::Gone,
                "it has left an event unread, and no live replica has its name".to_owned(),
            ),
        }
    };
    Judged {
        group: name.to_owned(),
        verdict,
        reason,
        collections: streams.keys().cloned().collect(),
        pending: streams.values().map(|group| group.pending).sum(),
        idle,
        unread,
    }
}

fn milliseconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_millis() as u64)
        .serialize(serializer)
}

/// The names of groups that replicas may have.
struct Owners<'a> {
    /// Live replicas: the name, and its part before the port. The default name of a replica is the
    /// name of its pod, with the port.
    live: BTreeSet<(&'a str, &'a str)>,
    gone: BTreeSet<&'a str>,
}

impl<'a> Owners<'a> {
    fn of(replicas: &'a [ReplicaRecord]) -> Self {
        let mut owners = Self {
            live: BTreeSet::new(),
            gone: BTreeSet::new(),
        };
        for record in replicas {
            let instance = record.check_in.instance.as_str();
            let host = instance
                .rsplit_once(':')
                .map_or(instance, |(host, _port)| host);
            if record.gone {
                owners.gone.extend([instance, host]);
            } else {
                owners.live.insert((instance, host));
            }
        }
        owners
    }

    fn own(&self, name: &str) -> bool {
        self.live
            .iter()
            .any(|(instance, host)| *instance == name || *host == name)
    }
}

#[cfg(test)]
mod tests;
