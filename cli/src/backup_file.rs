//! A backup: a file with the documents of some collections at one moment.
//!
//! Its text is newline-delimited JSON: a [`Header`], the lines of a snapshot, and an [`End`] with the
//! number of documents and the SHA-256 of every byte before it. The text is compressed (zstd) and, where
//! there are recipients, encrypted (age). So `age -d` and `zstd -d` open a backup without this program,
//! and the lines are an export that `confcast import` takes. Nothing here asks a service.

mod encryption;
mod reader;
mod writer;

use chrono::{DateTime, Utc};
use contract::{CollectionName, Epoch, Head, history::SnapshotName, sha256::Sha256};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    encryption::{Identities, Recipients},
    reader::{BackupFile, Next},
    writer::BackupWriter,
};

/// The version of the format. A reader refuses a later one.
const FORMAT: u64 = contract::formats::BACKUP;

/// First line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    /// The version of the format, and what tells a backup from an export.
    confcast_backup: u64,
    /// When it was made, by the clock of the command.
    pub(crate) made_at: DateTime<Utc>,
    /// The named snapshot whose state it has; absent where it has the state of the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<SnapshotName>,
    /// Lineage and counter of the store.
    pub(crate) epoch: Epoch,
    /// The heads that the documents add up to.
    pub(crate) heads: Vec<Head>,
}

impl Header {
    /// The header of a backup that is made now. Proofs are left out: they say what the store committed,
    /// and a restore needs none.
    pub(crate) fn now(epoch: Epoch, heads: Vec<Head>, snapshot: Option<SnapshotName>) -> Self {
        let unproven = heads.into_iter().map(|head| Head {
            proof: None,
            ..head
        });
        Self {
            confcast_backup: FORMAT,
            made_at: Utc::now(),
            snapshot,
            epoch,
            heads: unproven.collect(),
        }
    }

    /// Its collections.
    pub(crate) fn collections(&self) -> impl Iterator<Item = &CollectionName> {
        self.heads.iter().map(|head| &head.collection)
    }
}

/// Last line.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    /// Always true.
    end: bool,
    /// Number of documents.
    count: u64,
    /// Of all lines before this one, with their line feeds.
    sha256: Sha256,
}

/// A backup that is whole: every checksum, count and digest agrees.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backup {
    #[serde(flatten)]
    pub(crate) header: Header,
    /// Number of documents.
    pub(crate) documents: u64,
    /// Of all lines but the last. It identifies the backup.
    pub(crate) sha256: Sha256,
    /// Whether the file is encrypted.
    pub(crate) encrypted: bool,
}

#[cfg(test)]
mod tests;
