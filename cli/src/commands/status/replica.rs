//! One replica compared with the heads of the publisher: its state, its lag, its faults.
//!
//! The facts come from its last check-in with the publisher, or from the replica itself; both are
//! brought into the same form here. No service is asked here, and no document is compared.

use std::collections::BTreeSet;

use std::{fmt, time::SystemTime};

use contract::{
    CollectionName, Epoch, Head, Revision,
    fleet::{IntakeFault, ReplicaRecord, Transport},
    status::{ReplicaState, ReplicaStatus},
};

use super::{
    reply::{Reply, ReplyResult},
    unusable::Unusable,
};

/// A replica as the tables show it.
#[derive(Debug)]
pub(super) struct ReplicaView {
    /// Its name; its URL when it does not answer.
    pub(super) name: String,
    pub(super) base_url: Option<String>,
    /// Time of its last check-in in words; `now` when it was asked directly.
    pub(super) last_seen: String,
    pub(super) gone: bool,
    /// Why it did not answer.
    pub(super) error: Option<String>,
    /// The worst state that it reports, of itself or of a collection.
    pub(super) state: ReplicaState,
    pub(super) intake_fault: Option<IntakeFault>,
    /// By how many revisions events are behind the feed.
    pub(super) events_behind: u64,
    /// The remedy of that fault, for the transport of this replica.
    pub(super) remedy: Option<String>,
    /// What follows from the topics that its sidecar has not subscribed to, where it has one.
    pub(super) late_topics: Option<&'static str>,
    /// Topics that its sidecar has not subscribed to.
    pub(super) topics_not_subscribed: Vec<String>,
    pub(super) collections: Vec<CollectionView>,
    /// What the replica holds and its service cannot use: refused values and failing handlers.
    pub(super) unusable: Unusable,
    /// Why its last load or check-in failed, or which collection no publisher serves.
    pub(super) last_error: Option<String>,
}

/// One collection of a replica.
#[derive(Debug)]
pub(super) struct CollectionView {
    pub(super) name: CollectionName,
    pub(super) state: ReplicaState,
    /// `other-store`, `diverged`, …
    pub(super) reason: Option<String>,
    pub(super) revision: Revision,
    pub(super) known: Revision,
    /// Documents; known only when the replica was asked directly.
    pub(super) documents: Option<u64>,
    /// Revision of the publisher; `None` when it is not known.
    pub(super) head: Option<Revision>,
    /// Revisions behind the publisher; `None` when the two count in different histories.
    pub(super) lag: Option<Revision>,
    /// Whether the digests are equal; known only when both are of the same revision of the same
    /// history.
    pub(super) digests_equal: Option<bool>,
}

/// The state of a whole replica, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overall {
    /// Its worst state, by its own report.
    State(ReplicaState),
    /// A digest differs from the publisher's.
    Different,
    /// It has been silent for more than three check-in intervals.
    Gone,
    /// It does not answer.
    Unreachable,
}

/// How far a replica is behind the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lag {
    Unknown,
    /// Revisions, and the number of collections that lack any.
    Revisions(Revision, usize),
}

/// The names of collections, as text.
fn names(collections: &BTreeSet<CollectionName>) -> Vec<String> {
    collections.iter().map(CollectionName::to_string).collect()
}

impl ReplicaView {
    /// A replica as it was at its last check-in.
    pub(super) fn checked_in(record: &ReplicaRecord, heads: &[Head]) -> Self {
        let check_in = &record.check_in;
        let undelivered = record.undelivered.as_ref();
        let collections = check_in.collections.iter().map(|(name, report)| {
            let head = heads.iter().find(|head| head.collection == *name);
            // Only a settled revision has a digest that can be compared.
            let settled = report
                .settled
                .filter(|settled| head.is_some_and(|head| settled.revision == head.revision));
            CollectionView {
                name: name.clone(),
                state: report.state,
                reason: report.reason.clone(),
                revision: report.revision,
                known: report.known,
                documents: None,
                head: head.map(|head| head.revision),
                lag: lag(report.epoch, report.revision, head),
                digests_equal: head
                    .zip(settled)
                    .filter(|(head, _settled)| report.epoch == Some(head.epoch))
                    .map(|(head, settled)| settled.digest == head.digest),
            }
        });
        Self {
            name: check_in.instance.clone(),
            base_url: check_in.base_url.clone(),
            last_seen: ago(record),
            gone: record.gone,
            error: None,
            state: check_in.worst_state().unwrap_or(ReplicaState::Loading),
            // What the replica notices itself is a fault of 64 changes.
            intake_fault: check_in
                .intake
                .or(undelivered.map(|_why| IntakeFault::NotReceiving)),
            events_behind: check_in.events_behind,
            remedy: match undelivered {
                Some(why) => Some(format!("the publisher posts no events to it: {why}")),
                None => (check_in.intake)
                    .map(|fault| fault.remedy(check_in.transport, check_in.base_url.is_some()))
                    .map(str::to_owned),
            },
            late_topics: Transport::late_topics(check_in.transport),
            topics_not_subscribed: names(&check_in.topics_not_subscribed),
            collections: collections.collect(),
            unusable: Unusable::new(
                (check_in.collections.iter())
                    .map(|(name, report)| (name, &report.refusals[..], report.refused_values)),
                &check_in.handlers,
                check_in.failing_handlers,
            ),
            last_error: check_in.last_error.clone(),
        }
    }

    /// A replica that was asked directly.
    pub(super) fn asked(reply: &Reply<ReplicaStatus>, heads: &[Head]) -> Self {
        let status = match &reply.result {
            ReplyResult::Answer(status) => status,
            ReplyResult::Error(error) => {
                return Self {
                    name: reply.url.clone(),
                    base_url: Some(reply.url.clone()),
                    last_seen: "-".to_owned(),
                    gone: false,
                    error: Some(error.clone()),
                    state: ReplicaState::Loading,
                    intake_fault: None,
                    events_behind: 0,
                    remedy: None,
                    late_topics: None,
                    topics_not_subscribed: vec![],
                    collections: vec![],
                    unusable: Unusable::default(),
                    last_error: None,
                };
            }
        };
        let collections = status.collections.iter().map(|row| {
            let head = heads.iter().find(|head| head.collection == row.collection);
            CollectionView {
                name: row.collection.clone(),
                state: row.state,
                reason: row.reason.clone(),
                revision: row.revision,
                known: row.known,
                documents: Some(row.count),
                head: head.map(|head| head.revision),
                lag: lag(status.epoch, row.revision, head),
                digests_equal: head
                    .filter(|head| {
                        status.epoch == Some(head.epoch) && row.revision == head.revision
                    })
                    .map(|head| row.digest == head.digest),
            }
        });
        Self {
            name: status.instance.clone(),
            base_url: Some(reply.url.clone()),
            last_seen: "now".to_owned(),
            gone: false,
            error: None,
            state: (status.collections.iter().map(|row| row.state))
                .fold(status.state, ReplicaState::min),
            intake_fault: status.intake,
            events_behind: status.events_behind,
            remedy: (status.intake)
                .map(|fault| fault.remedy(status.transport, status.base_url.is_some()))
                .map(str::to_owned),
            late_topics: Transport::late_topics(status.transport),
            topics_not_subscribed: names(&status.topics_not_subscribed),
            collections: collections.collect(),
            unusable: Unusable::new(
                (status.collections.iter())
                    .map(|row| (&row.collection, &row.refusals[..], row.refused_values)),
                &status.handlers,
                0,
            ),
            last_error: status.last_error.clone(),
        }
    }

    pub(super) fn overall(&self) -> Overall {
        if self.error.is_some() {
            Overall::Unreachable
        } else if self.gone {
            Overall::Gone
        } else if self.collections.iter().any(CollectionView::is_different) {
            Overall::Different
        } else {
            Overall::State(self.state)
        }
    }

    /// Revisions behind the publisher, over all collections.
    pub(super) fn lag(&self) -> Lag {
        // A replica that follows nothing yet lacks everything, and it is not known how much that is.
        if self.error.is_some() || self.collections.is_empty() {
            return Lag::Unknown;
        }
        let mut revisions = 0;
        let mut collections = 0;
        for collection in &self.collections {
            match collection.lag {
                Some(0) => {}
                Some(lag) => {
                    revisions += lag;
                    collections += 1;
                }
                // An unversioned collection has no revisions that it could lack.
                None if collection.reason.as_deref() == Some("unversioned") => {}
                None => return Lag::Unknown,
            }
        }
        Lag::Revisions(revisions, collections)
    }

    /// What makes this replica unhealthy; nothing for a replica that is gone.
    pub(super) fn failures(&self) -> Vec<String> {
        if self.error.is_some() {
            return vec![format!("{} does not answer", self.name)];
        }
        if self.gone {
            return vec![];
        }
        let unhealthy = self
            .collections
            .iter()
            .filter(|collection| !collection.is_healthy());
        let mut failures: Vec<String> = unhealthy
            .map(|collection| {
                let verdict = collection.verdict();
                format!("{} of {} is {verdict}", collection.name, self.name)
            })
            .collect();
        // With a collection that is not healthy, that one is the reason.
        if failures.is_empty() && self.state != ReplicaState::Current {
            failures.push(format!("{} is {}", self.name, self.state.as_str()));
        }
        match (self.unusable.number, &self.unusable.lines[..]) {
            (0, _) => {}
            (1, [line]) => failures.push(format!("{}: {line}", self.name)),
            (many, _) => failures.push(format!(
                "{} has {many} refused values and failing handlers",
                self.name
            )),
        }
        if let Some(error) = &self.last_error {
            failures.push(format!("{} reports an error: {error}", self.name));
        }
        failures
    }

    /// The topics that its sidecar has not subscribed to, and the remedy.
    pub(super) fn late_topics_line(&self) -> Option<String> {
        let topics = self.topics_not_subscribed.join(", ");
        let remedy = self.late_topics.filter(|_remedy| !topics.is_empty())?;
        Some(format!("{}: {topics}: {remedy}", self.name))
    }

    /// The fault of its intake, while it is live.
    pub(super) fn live_intake_fault(&self) -> Option<IntakeFault> {
        self.intake_fault.filter(|_fault| !self.gone)
    }
}

impl CollectionView {
    pub(super) fn is_healthy(&self) -> bool {
        self.state == ReplicaState::Current && !self.is_different()
    }

    pub(super) fn is_different(&self) -> bool {
        self.digests_equal == Some(false)
    }

    fn verdict(&self) -> &'static str {
        if self.is_different() {
            "different from the publisher"
        } else {
            self.state.as_str()
        }
    }
}

impl Overall {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::State(state) => state.as_str(),
            Self::Different => "different",
            Self::Gone => "gone",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("?"),
            Self::Revisions(0, _) => f.write_str("0"),
            Self::Revisions(revisions, 1) => write!(f, "{revisions} in 1 collection"),
            Self::Revisions(revisions, collections) => {
                write!(f, "{revisions} in {collections} collections")
            }
        }
    }
}

fn lag(epoch: Option<Epoch>, revision: Revision, head: Option<&Head>) -> Option<Revision> {
    let head = head?;
    match epoch {
        // Nothing was loaded, so every revision is missing.
        None => Some(head.revision),
        Some(epoch) if epoch == head.epoch => Some(head.revision.saturating_sub(revision)),
        Some(_other) => None,
    }
}

/// Time since the last check-in, by the clocks of the publisher and of this machine.
fn ago(record: &ReplicaRecord) -> String {
    let seconds = SystemTime::now()
        .duration_since(record.seen.into())
        .unwrap_or_default()
        .as_secs();
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3600),
    }
}
