//! The documents of the store beside those of the backup: which ones are different. No document is held,
//! only what tells two values apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::ensure;
use client::Endpoint;
use contract::{
    CollectionName, DocumentId,
    secrets::{SEALED_MEMBER, sealed_values},
    sha256::Sha256,
};
use serde::Serialize;
use serde_json::Value;

use crate::backup_file::BackupFile;

/// The collections that are restored.
pub(super) type Selection = BTreeSet<CollectionName>;
/// A document by its name.
pub(super) type Key = (CollectionName, DocumentId);

/// What tells two values apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    value: Sha256,
    /// Of the value without its sealed secrets, where it has any: the same secret is sealed to another
    /// text in another store.
    without_secrets: Option<Sha256>,
}

impl Fingerprint {
    /// Of a value in canonical form.
    pub(super) fn of(value: &[u8]) -> Self {
        Self {
            value: Sha256::of(&[value]),
            without_secrets: without_secrets(value),
        }
    }

    /// Whether the value has sealed secrets.
    pub(super) fn has_secrets(&self) -> bool {
        self.without_secrets.is_some()
    }

    fn is_alike(&self, other: &Self) -> bool {
        self.has_secrets() && self.without_secrets == other.without_secrets
    }
}

fn without_secrets(value: &[u8]) -> Option<Sha256> {
    if !value
        .windows(SEALED_MEMBER.len())
        .any(|window| window == SEALED_MEMBER.as_bytes())
    {
        return None;
    }
    let mut value: Value = serde_json::from_slice(value).ok()?;
    let sealed: Vec<_> = sealed_values(&value)
        .into_iter()
        .map(|(pointer, _text)| pointer)
        .collect();
    if sealed.is_empty() {
        return None;
    }
    for pointer in sealed {
        if let Some(secret) = value.pointer_mut(&pointer) {
            *secret = Value::Null;
        }
    }
    Some(Sha256::of(&[value.to_string().as_bytes()]))
}

/// A document of the store beside that of the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    OnlyInStore,
    Same,
    Different,
}

/// The documents of the store.
pub(super) type Stored = HashMap<Key, (Fingerprint, Found)>;

/// What a restore does to a collection.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Counts {
    pub(super) collection: CollectionName,
    pub(super) create: u64,
    pub(super) update: u64,
    pub(super) delete: u64,
    pub(super) unchanged: u64,
}

impl Counts {
    fn changes(&self) -> u64 {
        self.create + self.update + self.delete
    }
}

/// What is different, and the documents of the store that it was compared with.
#[derive(Debug)]
pub(super) struct Plan {
    collections: BTreeMap<CollectionName, Counts>,
    stored: Stored,
    /// A document that is different, for messages.
    example: Option<Key>,
}

impl Plan {
    /// Compares the store, as it is at one moment, with the backup. Of the `accepted` documents the
    /// publisher has opened the secrets and taken them: other texts of them are the same secrets.
    ///
    /// # Errors
    /// When the publisher does not give its documents, or the file is not what it was.
    pub(super) async fn new(
        publisher: &Endpoint,
        file: &BackupFile,
        selection: &Selection,
        accepted: &BTreeSet<Key>,
    ) -> anyhow::Result<Self> {
        let mut collections: BTreeMap<_, _> = selection
            .iter()
            .map(|name| (name.clone(), Counts::none(name)))
            .collect();
        let mut stored = Stored::new();
        let mut snapshot = publisher.snapshot(selection).await?.proven();
        while let Some(record) = snapshot.next_record().await? {
            let item = record.item;
            let fingerprint = Fingerprint::of(item.document.config_data());
            if let Some(counts) = collections.get_mut(&item.collection) {
                // Until the backup turns out to have it.
                counts.delete += 1;
            }
            let key = (item.collection, item.document.id().clone());
            stored.insert(key, (fingerprint, Found::OnlyInStore));
        }
        snapshot.finish()?;
        let mut example = None;
        file.read(|item| {
            let Some(counts) = collections.get_mut(&item.collection) else {
                return Ok(());
            };
            let value = Fingerprint::of(item.document.config_data());
            let key = (item.collection, item.document.id().clone());
            let Some((now, found)) = stored.get_mut(&key) else {
                counts.create += 1;
                example.get_or_insert(key);
                return Ok(());
            };
            ensure!(
                *found == Found::OnlyInStore,
                "the backup has {}/{} twice",
                key.0,
                key.1
            );
            counts.delete -= 1;
            if *now == value || accepted.contains(&key) && now.is_alike(&value) {
                *found = Found::Same;
                counts.unchanged += 1;
            } else {
                *found = Found::Different;
                counts.update += 1;
                example.get_or_insert(key);
            }
            Ok(())
        })?;
        Ok(Self {
            collections,
            stored,
            example,
        })
    }

    /// What changes, by collection.
    pub(super) fn counts(&self) -> Vec<&Counts> {
        self.collections.values().collect()
    }

    /// The number of documents that are different.
    pub(super) fn changes(&self) -> u64 {
        self.collections.values().map(Counts::changes).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes() == 0
    }

    /// The documents of the store, each beside that of the backup.
    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// A document that is different, unless the differences are documents that the backup does not have.
    pub(super) fn example(&self) -> Option<&Key> {
        self.example.as_ref()
    }

    /// What the operator confirms.
    pub(super) fn question(&self) -> String {
        let sum = |of: fn(&Counts) -> u64| self.collections.values().map(of).sum::<u64>();
        format!(
            "create {}, update {} and delete {} documents, and declare a new epoch",
            sum(|counts| counts.create),
            sum(|counts| counts.update),
            sum(|counts| counts.delete),
        )
    }
}

impl Counts {
    fn none(collection: &CollectionName) -> Self {
        Self {
            collection: collection.clone(),
            create: 0,
            update: 0,
            delete: 0,
            unchanged: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_was_sealed_again_is_alike_and_not_equal() {
        let of = |value: &str| Fingerprint::of(value.as_bytes());
        let old = of(r#"{"host":"db","password":{"$secret":"v1.a.1.x"}}"#);
        let new = of(r#"{"host":"db","password":{"$secret":"v1.a.2.y"}}"#);
        assert!(old != new && old.is_alike(&new) && old.has_secrets());
        let other = of(r#"{"host":"cache","password":{"$secret":"v1.a.2.y"}}"#);
        assert!(!old.is_alike(&other));
        let plain = of(r#"{"host":"db","note":"$secret"}"#);
        assert!(!plain.has_secrets() && !plain.is_alike(&plain));
    }
}
