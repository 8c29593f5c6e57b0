//! The check-in: a replica says where it is, a publisher answers with where everything stands.
//! Heartbeat, fleet view and anti-entropy in one request.
//!
//! Nothing here is trusted for order: a check-in tells how far a replica *is*, never what a
//! document is worth.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    head::Head,
    ids::{CollectionName, Digest, Epoch, Revision},
    status::{HandlerStatus, RefusedValue, ReplicaState},
};

/// Longest name of a replica, in bytes.
pub const MAX_INSTANCE: usize = 128;
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
    /// Marks one life of its process: random, made at its start.
    #[cfg_attr(
        feature = "utoipa",
        schema(min_length = 1, max_length = 128, pattern = "^[!-~]+$")
    )]
    pub boot_id: String,
    /// Where it answers, when it can be reached. `LOCAL` events go there, if it is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "utoipa",
        schema(max_length = 256, pattern = "^http://[a-z0-9.-]+(:[0-9]{1,4})?$")
    )]
    pub base_url: Option<String>,
    /// Its longest time between two check-ins, in milliseconds: who is silent for much longer is
    /// gone.
    pub interval_ms: u64,
    /// What is wrong with the way its events come, when something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intake: Option<IntakeFault>,
    /// Where it is, by collection.
    pub collections: BTreeMap<CollectionName, CollectionReport>,
    /// See [`crate::status::ReplicaStatus::handlers`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<HandlerStatus>,
}

/// Where a replica is with one collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CollectionReport {
    /// The history it follows; absent before its first load, and where its publisher counts no
    /// revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The watermark: every revision up to it was seen.
    pub revision: Revision,
    /// The highest revision heard of.
    pub known: Revision,
    /// The last moment that can be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<SettledPoint>,
    /// How far it may be trusted, by its own account.
    pub state: ReplicaState,
    /// See [`crate::status::CollectionStatus::reason`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// See [`crate::status::CollectionStatus::refusals`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusedValue>,
}

/// A moment with nothing seen beyond the watermark and nothing staged: the digest there must be the
/// publisher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct SettledPoint {
    /// The watermark at that moment.
    pub revision: Revision,
    /// The digest at that moment.
    pub digest: Digest,
}

/// What is wrong with the way events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum IntakeFault {
    /// What brings the events cannot be reached.
    Disconnected,
    /// None of the last changes came by an event.
    NotReceiving,
    /// Some changes come by event and others never do: replicas share a consumer group and compete
    /// for events.
    SharedConsumerGroup,
}

impl IntakeFault {
    /// All there are.
    pub const ALL: [Self; 3] = [
        Self::Disconnected,
        Self::NotReceiving,
        Self::SharedConsumerGroup,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::NotReceiving => "not-receiving",
            Self::SharedConsumerGroup => "shared-consumer-group",
        }
    }

    /// What it means and how it is mended.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Disconnected => {
                "what brings the events cannot be reached, changes come with the check-ins. REDIS: is it running, do \
                 AURA_REDIS_URL and the rights of its user fit? FEED: does a publisher answer? The log has the error"
            }
            Self::NotReceiving => {
                "none of the last changes came by an event. DAPR: is the sidecar running, did it subscribe (it asks \
                 once in its life), do the scopes of the component name this application? REDIS: have both sides the \
                 same AURA_REDIS_URL, _DATABASE, _CONFIGURATION_PREFIX and _DELIVERY?"
            }
            Self::SharedConsumerGroup => {
                "replicas compete for events: their sidecars share a consumer group. Give each its own: consumerID \
                 {podName} on Kubernetes, {uuid} elsewhere, in the metadata of the pub/sub component"
            }
        }
    }
}

/// Answer to a check-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct CheckInAnswer {
    /// Where the collections of the report stand; one that is not served here is missing.
    pub heads: Vec<Head>,
    /// Milliseconds since `heads` were known to be true; 0 at a publisher.
    #[serde(default)]
    pub age: u64,
    /// The shortest time in milliseconds between two check-ins of a replica whose revisions move.
    /// Absent where early check-ins are not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_after_ms: Option<u64>,
    /// Collections that have to be loaded again, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resync: BTreeMap<CollectionName, ResyncReason>,
}

/// Why a collection has to be loaded anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ResyncReason {
    /// Its digest at a settled revision is not the publisher's.
    Diverged,
}

/// Body of `GET /v1/replicas`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct ReplicaList {
    /// The replicas that checked in with any publisher of this store, by name.
    pub replicas: Vec<ReplicaRecord>,
}

/// A replica as publishers know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReplicaRecord {
    /// Its newest check-in.
    #[serde(flatten)]
    pub check_in: CheckIn,
    /// When that came, by the publisher's clock.
    pub seen: DateTime<Utc>,
    /// It has been silent for more than three intervals.
    pub gone: bool,
}

/// Body of `POST /v1/epoch`: the operator says that the store was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RestoreEpochRequest {
    /// Take over the lineage that replicas report, so that they accept this other store.
    #[serde(default)]
    pub adopt: bool,
}

/// Answer to `POST /v1/epoch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct EpochDeclared {
    /// The history that everything counts in from now on.
    pub epoch: Epoch,
}
