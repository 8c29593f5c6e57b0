//! The check-in: a replica reports its revisions, and the publisher answers with the heads.
//!
//! It is heartbeat, fleet view and anti-entropy in one request. A check-in reports the progress of a
//! replica and never changes a document.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    apply_delays::ApplyDelays,
    head::Head,
    ids::{CollectionName, Digest, Epoch, FormatError, Revision},
    proof::Proof,
    release::ReleaseVersion,
    status::{HandlerStatus, RefusedValue, ReplicaState, hide_errors, hide_refusals, is_zero},
};

/// Longest name of a replica, in bytes.
pub const MAX_INSTANCE: usize = 128;
/// Longest interval between two check-ins, in milliseconds: a day.
pub const MAX_INTERVAL_MS: u64 = 86_400_000;
/// Largest number of collections that a replica follows because its publishers serve them.
pub const MAX_SERVED: usize = 256;
/// Largest body of a check-in, in bytes.
pub const MAX_CHECK_IN: usize = 256 * 1024;

/// Body of `PUT /v1/replicas/{instance}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CheckIn {
    /// Name of the replica; the same as in the path.
    #[cfg_attr(
        feature = "utoipa",
        schema(min_length = 1, max_length = 128, pattern = "^[!-~]+$")
    )]
    pub instance: String,
    /// Identifies one run of its process: random, generated at the start.
    #[cfg_attr(
        feature = "utoipa",
        schema(min_length = 1, max_length = 128, pattern = "^[!-~]+$")
    )]
    pub boot_id: String,
    /// URL at which it can be reached, if any. The transport `LOCAL` posts events there, if the
    /// publisher allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "utoipa",
        schema(
            max_length = 256,
            pattern = r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$"
        )
    )]
    pub base_url: Option<String>,
    /// The longest time between two of its check-ins, in milliseconds: from 1 to
    /// [`MAX_INTERVAL_MS`]. After three intervals without one, the replica counts as gone.
    #[cfg_attr(feature = "utoipa", schema(minimum = 1, maximum = 86_400_000))]
    pub interval_ms: u64,
    /// The fault of its intake, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intake: Option<IntakeFault>,
    /// Its progress, by collection.
    pub collections: BTreeMap<CollectionName, CollectionReport>,
    /// See [`crate::status::ReplicaStatus::topics_not_subscribed`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "utoipa", schema(value_type = Vec<CollectionName>, max_items = 256))]
    pub topics_not_subscribed: BTreeSet<CollectionName>,
    /// See [`crate::status::ReplicaStatus::handlers`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "utoipa", schema(max_items = 64))]
    pub handlers: Vec<HandlerStatus>,
    /// The exact number of failing handlers; 0 from an older replica.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failing_handlers: u64,
    /// See [`crate::status::ReplicaStatus::events_behind`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub events_behind: u64,
    /// See [`crate::status::ReplicaStatus::last_error`]; at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(max_length = 1024))]
    pub last_error: Option<String>,
    /// The transport of its events, where it knows. Another value counts as absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<serde_json::Value>))]
    pub transport: Option<Transport>,
    /// The version of its program; absent from an older replica. Another value counts as absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::text"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<serde_json::Value>))]
    pub version: Option<ReleaseVersion>,
    /// See [`crate::formats::PROTOCOL`]; absent from an older replica. Another value counts as absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::lenient::number"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<serde_json::Value>))]
    pub protocol: Option<u32>,
    /// How long the changes took that the replica applied since its last check-in that was answered.
    /// It is counted by the publisher that answers, and kept nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_delays: Option<ApplyDelays>,
}

impl CheckIn {
    /// The worst state of any collection. A check-in has no state of its own; one without collections
    /// comes before the first load.
    pub fn worst_state(&self) -> Option<ReplicaState> {
        self.collections.values().map(|report| report.state).min()
    }

    /// The number of failing handlers; an older replica only lists them.
    pub fn failing_handlers(&self) -> u64 {
        let failing = self.handlers.iter().filter(|handler| handler.is_failing());
        let listed = failing.count() as u64;
        self.failing_handlers.max(listed)
    }

    /// The number of refused values in all collections; an older replica only lists them.
    pub fn refused_values(&self) -> u64 {
        self.collections
            .values()
            .map(|report| report.refused_values.max(report.refusals.len() as u64))
            .fold(0, u64::saturating_add)
    }
}

/// The progress of a replica in one collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CollectionReport {
    /// The epoch that it follows; absent before its first load, and when its publisher has no
    /// revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The watermark: the replica has seen every revision up to this one.
    pub revision: Revision,
    /// The highest revision of which the replica holds a proof, or its watermark if that is higher.
    pub known: Revision,
    /// The proof of `known` in `epoch`, as a head or a change had it. A report that is ahead of the
    /// store is evidence of a restore only with a valid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// A revision above `known` that only an event without a proof has named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Revision>,
    /// The newest settled point, for the comparison of digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<SettledPoint>,
    /// The state of the replica in this collection.
    pub state: ReplicaState,
    /// See [`crate::status::CollectionStatus::reason`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// See [`crate::status::CollectionStatus::refusals`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "utoipa", schema(max_items = 20))]
    pub refusals: Vec<RefusedValue>,
    /// See [`crate::status::CollectionStatus::refused_values`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused_values: u64,
}

/// A moment at which the replica had seen nothing beyond its watermark and staged nothing. Its digest
/// must then be equal to the digest of the publisher at the same revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct SettledPoint {
    /// The watermark at that moment.
    pub revision: Revision,
    /// The digest at that moment.
    pub digest: Digest,
}

/// A fault in the way a replica receives events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum IntakeFault {
    /// The source of events (Redis, or the feed of a publisher) cannot be reached.
    Disconnected,
    /// None of the last changes arrived as an event.
    NotReceiving,
    /// Events arrive and are dropped, because they are not signed by a key that the replica knows.
    Unverified,
    /// Some changes arrive as events and others never do: several replicas share one consumer group,
    /// so each event reaches only one of them.
    SharedConsumerGroup,
}

impl IntakeFault {
    /// Every fault.
    pub const ALL: [Self; 4] = [
        Self::Disconnected,
        Self::NotReceiving,
        Self::Unverified,
        Self::SharedConsumerGroup,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::NotReceiving => "not-receiving",
            Self::Unverified => "unverified",
            Self::SharedConsumerGroup => "shared-consumer-group",
        }
    }

    /// The meaning of the fault and its remedy for this transport, in words. `names_url` says
    /// whether the replica tells the publishers a URL. Where the transport is not known the text
    /// has the remedies of all.
    pub fn remedy(self, transport: Option<Transport>, names_url: bool) -> &'static str {
        use Transport::{Dapr, Feed, Local, Redis};
        match (self, transport) {
            (Self::Disconnected, Some(Redis)) => {
                "the source of events cannot be reached; changes arrive with the check-ins. Check that the Redis \
                 server runs, AURA_REDIS_URL, and the rights of its user. The log of the replica has the error"
            }
            (Self::Disconnected, Some(Feed)) => {
                "the source of events cannot be reached; changes arrive with the check-ins. Check that a publisher \
                 answers at AURA_CONFIGURATION_API_URL. The log of the replica has the error"
            }
            (Self::Disconnected, _) => {
                "the source of events cannot be reached; changes arrive with the check-ins. REDIS: check that the \
                 server runs, AURA_REDIS_URL, and the rights of its user. FEED: check that a publisher answers. \
                 The log has the error"
            }
            (Self::NotReceiving, Some(Local)) if !names_url => {
                "the publisher has no URL to post events to: the subscriber listens on all addresses of its host \
                 and names none, so changes arrive with its check-ins. Set AURA_CONFIGURATION_BASE_URL of the \
                 subscriber to the URL at which the publisher reaches it, for example http://10.0.0.7:8081, and \
                 allow that address with AURA_CONFIGURATION_LOCAL_ALLOW of the publisher"
            }
            (Self::NotReceiving, Some(Local)) => {
                "none of the last changes arrived as an event. Check that the publisher has \
                 AURA_CONFIGURATION_EVENTS_MANAGER=LOCAL too, that it reaches the base URL of the subscriber \
                 (AURA_CONFIGURATION_BASE_URL), that it allows the address \
                 (AURA_CONFIGURATION_LOCAL_SUBSCRIBERS or AURA_CONFIGURATION_LOCAL_ALLOW), and that both have the \
                 same APP_API_TOKEN"
            }
            (Self::NotReceiving, Some(Dapr)) => {
                "none of the last changes arrived as an event. Check that the sidecar runs, that it asked for the \
                 subscriptions (it asks once, at its start), and that the scopes of the component name this \
                 application"
            }
            (Self::NotReceiving, Some(Redis)) => {
                "none of the last changes arrived as an event. Check that publisher and replica have the same \
                 AURA_REDIS_URL, _DATABASE, _CONFIGURATION_PREFIX and _DELIVERY"
            }
            (Self::NotReceiving, Some(Feed)) => {
                "none of the last changes arrived by the live feed. Check that no proxy between the replica and \
                 AURA_CONFIGURATION_API_URL holds back answers (text/event-stream)"
            }
            (Self::NotReceiving, None) => {
                "none of the last changes arrived as an event. LOCAL: check AURA_CONFIGURATION_BASE_URL of the \
                 subscriber, and AURA_CONFIGURATION_LOCAL_SUBSCRIBERS and AURA_CONFIGURATION_LOCAL_ALLOW of the \
                 publisher. DAPR: check that the sidecar runs, that it asked for \
                 the subscriptions (it asks once, at its start), and that the scopes of the component name this \
                 application. REDIS: check that both sides have the same AURA_REDIS_URL, _DATABASE, \
                 _CONFIGURATION_PREFIX and _DELIVERY"
            }
            (Self::Unverified, _) => {
                "events arrive and are dropped, because no key that the replica knows has signed them; changes \
                 arrive with the check-ins. Compare the keys of both sides with confcast keys list: those in \
                 AURA_CONFIGURATION_EVENT_KEYS_FILE of the replica, and that of \
                 AURA_CONFIGURATION_SIGNING_KEY_FILE of the publisher. The status of the replica counts unsigned, \
                 unknownKey and wrongSignature"
            }
            (Self::SharedConsumerGroup, _) => {
                "several replicas share one consumer group, so each event reaches only one of them. Give each \
                 sidecar its own group: consumerID {podName} on Kubernetes, {uuid} elsewhere, in the metadata of \
                 the pub/sub component"
            }
        }
    }
}

/// How events travel to a replica: the value of `AURA_CONFIGURATION_EVENTS_MANAGER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// A publisher posts them.
    Local,
    /// A sidecar posts them.
    Dapr,
    /// The replica reads them from Redis.
    Redis,
    /// The replica follows the live feed.
    Feed,
}

impl Transport {
    /// The name of what carries the events, as `messaging.system` of a span (OpenTelemetry semantic
    /// conventions): a sidecar does not say which broker it uses.
    pub fn messaging_system(self) -> &'static str {
        match self {
            Self::Local | Self::Feed => "confcast",
            Self::Dapr => "dapr",
            Self::Redis => "redis",
        }
    }

    /// What follows from topics that a replica named too late, and the remedy, in words. `None` for a
    /// transport that no sidecar posts: a publisher asks for the topics again before it posts.
    pub fn late_topics(transport: Option<Self>) -> Option<&'static str> {
        match transport {
            Some(Self::Dapr) => Some(
                "the sidecar has not subscribed to them, because it asks once in its life: restart the \
                 sidecar; their changes arrive with the check-ins until then",
            ),
            None => Some(
                "a sidecar has not subscribed to them, because it asks once in its life: where a sidecar \
                 posts the events, restart it; their changes arrive with the check-ins until then. A \
                 publisher asks again by itself",
            ),
            Some(Self::Local | Self::Redis | Self::Feed) => None,
        }
    }
}

impl FromStr for Transport {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "LOCAL" => Ok(Self::Local),
            "DAPR" => Ok(Self::Dapr),
            "REDIS" => Ok(Self::Redis),
            "FEED" => Ok(Self::Feed),
            _ => Err(FormatError::new(
                "transport",
                text,
                "LOCAL, DAPR, REDIS or FEED",
            )),
        }
    }
}

/// Answer to a check-in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CheckInAnswer {
    /// Heads of the reported collections; a collection that is not served here is absent.
    pub heads: Vec<Head>,
    /// All collections that are served here. A replica that follows what is served learns of new
    /// ones by it. Absent from an older publisher.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub served: BTreeSet<CollectionName>,
    /// Age of `heads` in milliseconds; 0 from a publisher.
    #[serde(default)]
    pub age: u64,
    /// Collections whose digest is not the digest of their revision: a subscriber that lacks a
    /// change holds later ones already. A publisher has none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unsettled: BTreeSet<CollectionName>,
    /// The shortest time in milliseconds between two check-ins of a replica whose revisions move.
    /// Absent when early check-ins are not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_after_ms: Option<u64>,
    /// The shortest time in milliseconds between two check-ins of a replica whose events ask for them
    /// ([`crate::EventData`], `confirm`). Absent from an older publisher, and from a subscriber.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_after_ms: Option<u64>,
    /// Collections without a topic: no event tells of their changes, so a replica that receives none
    /// has no fault.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub without_topic: BTreeSet<CollectionName>,
    /// Collections whose events are id-only: of all others such an event is of no publisher. Absent
    /// from an older publisher and from a subscriber, which say nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_only: Option<BTreeSet<CollectionName>>,
    /// Collections that have to be loaded again, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resync: BTreeMap<CollectionName, ResyncReason>,
}

/// Why a collection has to be loaded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ResyncReason {
    /// Its digest at a settled revision differs from the digest of the publisher.
    Diverged,
    /// It holds or knows of a revision that was never committed: a wrong event was the cause.
    Unproven,
}

/// Most replicas of one page of `GET /v1/replicas`.
pub const REPLICA_PAGE: usize = 1_000;

/// Body of `GET /v1/replicas`: all replicas, or the page after a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct ReplicaList {
    /// The replicas that checked in with any publisher of this store, by name.
    pub replicas: Vec<ReplicaRecord>,
    /// The changes whose events are not published yet; absent on the pages after the first one, and
    /// from an older publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<EventBacklog>,
    /// The next page is `?after=` this name; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The changes of a store whose events are not published yet. Replicas get them by the feed at the
/// latest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EventBacklog {
    /// Their number. Counted up to [`MAX_BACKLOG`]; those that were published within the last 100 ms
    /// may be among them.
    pub pending: u64,
    /// The time since the oldest of those that were counted was committed, in milliseconds; 0 where
    /// there is none.
    pub oldest_ms: u64,
}

/// Pending changes that are counted, at most.
pub const MAX_BACKLOG: u64 = 10_000;

/// The record of a replica at the publishers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReplicaRecord {
    /// The newest check-in.
    #[serde(flatten)]
    pub check_in: CheckIn,
    /// Time of that check-in, by the clock of the publisher.
    pub seen: DateTime<Utc>,
    /// No check-in arrived for more than three intervals.
    pub gone: bool,
    /// Why the publisher that answers posts no events to the replica (`LOCAL`), in words, where it
    /// would: the replica cannot know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undelivered: Option<String>,
}

impl ReplicaRecord {
    /// Leaves out what may quote a document of a collection that the reader may not read: refused values
    /// and errors of handlers. Their numbers stay.
    pub fn hide_values(&mut self, may_read: impl Fn(&CollectionName) -> bool) {
        for (name, report) in &mut self.check_in.collections {
            if !may_read(name) {
                hide_refusals(&mut report.refusals, &mut report.refused_values);
            }
        }
        hide_errors(&mut self.check_in.handlers, may_read);
    }
}

/// Body of `POST /v1/epoch`: the operator declares that the store was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RestoreEpochRequest {
    /// Adopt the lineage of these eight hexadecimal digits, so that the replicas which follow it
    /// accept this store in place of theirs. One that no live replica reports is refused; the answer
    /// names those that are reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// The highest counter that a lost history may have used; the new one is higher. At most a day,
    /// in milliseconds, after the clock of the publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<u64>,
    /// Begin a new lineage, because the counters of this one are near their end. The replicas of the
    /// store follow it. Refused while there are counters for more than ten years.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renew: bool,
}

/// Answer to `POST /v1/epoch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct EpochDeclared {
    /// The new epoch.
    pub epoch: Epoch,
}
