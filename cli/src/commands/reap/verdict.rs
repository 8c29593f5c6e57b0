//! Which groups are those of replicas that are gone: a pure judgement of two looks at Redis and the
//! fleet.
//!
//! Measured with daprd 1.14: a sidecar reads with a block that never ends. So the idle time of a
//! live one grows for as long as no event comes, just as that of a dead one, and says nothing. What
//! tells is an event that stays unread: a live sidecar takes it within milliseconds. A group that
//! has nothing unread is never judged gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use broker::groups::Group;
use contract::{CollectionName, fleet::ReplicaList};
use serde::{Serialize, Serializer};

use super::names::{Pattern, is_uuid};

/// What is known at one moment. A sidecar has the same name in all streams.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) groups: BTreeMap<String, BTreeMap<CollectionName, Group>>,
    pub(super) fleet: ReplicaList,
}

/// What the user says.
#[derive(Debug)]
pub(super) struct Rule {
    /// Per-replica names besides UUIDs.
    pub(super) patterns: Vec<Pattern>,
    /// How long a live sidecar never leaves an event unread.
    pub(super) idle: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Of a replica that is live, or read from lately.
    Live,
    /// No per-replica group, as far as can be told.
    Other,
    /// Of a live replica or of none: no event has shown it yet.
    Quiet,
    /// It may be that of a live replica which does not reach Redis.
    Unsure,
    /// Of no live replica: to be removed.
    Gone,
    /// Removed now.
    Removed,
}

impl Verdict {
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
    pub(super) verdict: Verdict,
    pub(super) why: String,
    pub(super) collections: Vec<CollectionName>,
    /// Events that were read and not acknowledged.
    pub(super) pending: u64,
    /// Since somebody asked for events.
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

/// Gone is only what is gone in both looks and stands where it stood.
pub(super) fn judge(first: &Look, second: &Look, rule: &Rule) -> Vec<Judged> {
    let before = judge_one(first, rule);
    let mut after = judge_one(second, rule);
    for judged in after
        .iter_mut()
        .filter(|judged| judged.verdict == Verdict::Gone)
    {
        let earlier = before.iter().find(|earlier| earlier.group == judged.group);
        if earlier.is_none_or(|earlier| earlier.verdict != Verdict::Gone)
            || places(first, &judged.group) != places(second, &judged.group)
        {
            judged.verdict = Verdict::Live;
            "it changed while it was looked at".clone_into(&mut judged.why);
        }
    }
    after
}

/// How far a group has read, by stream.
fn places<'a>(look: &'a Look, name: &str) -> Vec<(&'a CollectionName, &'a str)> {
    let streams = look.groups.get(name).into_iter().flatten();
    streams
        .map(|(stream, group)| (stream, group.last_delivered.as_str()))
        .collect()
}

fn judge_one(look: &Look, rule: &Rule) -> Vec<Judged> {
    let owners = Owners::of(&look.fleet);
    let mut judged: Vec<Judged> = look
        .groups
        .iter()
        .map(|(name, streams)| judge_group(name, streams, &owners, rule))
        .collect();
    if owners.live.is_empty() {
        hold(
            &mut judged,
            usize::MAX,
            "no replica is live: is this the right publisher?",
        );
        return judged;
    }
    // A live replica whose sidecar does not reach Redis looks like one that is gone; so as many are
    // left alone as live replicas have no group that is known to be read.
    let named = |name: &str| look.groups.contains_key(name);
    let without = owners
        .live
        .iter()
        .filter(|(instance, host)| !named(instance) && !named(host))
        .count();
    let reading = (judged.iter())
        .filter(|group| group.verdict == Verdict::Live && !owners.own(&group.group))
        .count();
    hold(
        &mut judged,
        without.saturating_sub(reading),
        "a live replica has no group that was read from lately: this may be its",
    );
    judged
}

/// Leaves alone so many of those that are gone, the youngest first.
fn hold(judged: &mut [Judged], number: usize, why: &str) {
    let mut gone: Vec<_> = judged
        .iter_mut()
        .filter(|group| group.verdict == Verdict::Gone)
        .collect();
    // One that never read anything may be the youngest of all.
    gone.sort_by_key(|group| group.idle);
    for group in gone.into_iter().take(number) {
        group.verdict = Verdict::Unsure;
        why.clone_into(&mut group.why);
    }
}

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
    let (verdict, why) = if owners.own(name) {
        (Verdict::Live, "its replica is live".to_owned())
    } else if !for_replicas {
        (
            Verdict::Other,
            "not the name of a replica's group".to_owned(),
        )
    } else if consumers().any(|consumer| consumer.name != name) {
        (
            Verdict::Other,
            "others than a sidecar read from it".to_owned(),
        )
    } else if idle.is_some_and(|idle| idle < rule.idle) {
        (Verdict::Live, "it was read from lately".to_owned())
    } else {
        match unread {
            None => (
                Verdict::Quiet,
                "nothing is unread: the next event tells".to_owned(),
            ),
            Some(unread) if unread < rule.idle => (
                Verdict::Quiet,
                "an event is unread, not yet for long enough".to_owned(),
            ),
            Some(_long) if owners.gone.contains(name) => {
                (Verdict::Gone, "its replica is gone".to_owned())
            }
            Some(_long) => (
                Verdict::Gone,
                "it has left an event unread, and no live replica has its name".to_owned(),
            ),
        }
    };
    Judged {
        group: name.to_owned(),
        verdict,
        why,
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

/// Whose groups there may be.
struct Owners<'a> {
    /// The live ones: name, and the part before the port. A pod's name is the default name of its
    /// replica, with the port.
    live: BTreeSet<(&'a str, &'a str)>,
    gone: BTreeSet<&'a str>,
}

impl<'a> Owners<'a> {
    fn of(fleet: &'a ReplicaList) -> Self {
        let mut owners = Self {
            live: BTreeSet::new(),
            gone: BTreeSet::new(),
        };
        for member in &fleet.replicas {
            let instance = member.check_in.instance.as_str();
            let host = instance
                .rsplit_once(':')
                .map_or(instance, |(host, _port)| host);
            if member.gone {
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
