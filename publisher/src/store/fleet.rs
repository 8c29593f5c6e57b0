//! What the store keeps of replicas, and how its epoch is declared. Nothing here concerns
//! documents.
//!
//! Rows of replicas are a view, never a truth: losing one costs nothing but a second of it.

use chrono::{DateTime, Utc};
use contract::{Epoch, fleet::ReplicaRecord};
use serde::{Deserialize, Serialize};

use crate::store::Store;

/// Replicas that a store keeps and a request reads; beyond, the ones longest silent go.
pub const MOST_MEMBERS: usize = 20_000;
/// Bytes of rows that a request reads.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// A replica as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What everybody may see.
    #[serde(flatten)]
    pub member: ReplicaRecord,
    /// How it was heard; of a row that does not say so nothing is known.
    #[serde(default)]
    pub heard: Heard,
}

/// How a check-in reached its publisher, as far as that decides whether `LOCAL` sends there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Heard {
    /// The loopback that it came over, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loopback: Option<String>,
    /// It carried the token of that publisher.
    pub token: bool,
}

impl Store {
    /// Keeps these rows, each unless a newer one of that replica is there.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put_members(&self, rows: Vec<Row>) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.put_members(rows).await,
            Self::Mongo(store) => store.put_members(&rows).await,
        }
    }

    /// All rows, bounded in number and bytes; who was seen last comes first where that matters.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn members(&self) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Embedded(store) => store.members().await,
            Self::Mongo(store) => store.members().await,
        }
    }

    /// Forgets the replicas that were not seen since then, and those beyond [`MOST_MEMBERS`].
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn forget_members(&self, before: DateTime<Utc>) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.forget_members(before).await,
            Self::Mongo(store) => store.forget_members(before).await,
        }
    }

    /// A small write that only the true primary can confirm: what is read after it is not the past.
    ///
    /// # Errors
    /// When it was not confirmed.
    pub async fn confirm(&self) -> anyhow::Result<()> {
        match self {
            // One process has the file; nobody else can have written.
            Self::Embedded(_) => Ok(()),
            Self::Mongo(store) => store.confirm().await,
        }
    }

    /// Moves the store from one epoch to another. `false` = it was not in the first one any more.
    /// No change that is committed later carries the first.
    ///
    /// # Errors
    /// When it is not certain that it was declared.
    pub async fn declare(&self, from: Epoch, to: Epoch) -> anyhow::Result<bool> {
        match self {
            Self::Embedded(store) => store.declare(from, to).await,
            Self::Mongo(store) => store.declare(from, to).await,
        }
    }
}
