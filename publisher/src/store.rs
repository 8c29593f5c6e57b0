//! Where documents, heads and the change log live: MongoDB, or a file of this process.
//!
//! Both keep the same promise: a group's documents, heads and change records become durable
//! together or not at all, and whoever reads the log sees revisions in order. The store decides
//! nothing about a write; [`crate::fold`] does.

use std::{collections::BTreeSet, ops::Range, path::PathBuf, str::FromStr, sync::Arc};

use chrono::{DateTime, Utc};
use contract::{Change, CollectionName, Document, DocumentId, Epoch, Head, Revision};

use crate::decide::{Command, Rules, WriteError, WriteResult};

pub mod committed_heads;
pub mod embedded;
pub mod fleet;
pub mod mongo;

/// Bytes of documents that a [`Reading`] hands out at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Where to find a store.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `file:DIR`
    Embedded(PathBuf),
    /// `mongodb://…/database`. May hold a password, so it is never shown.
    Mongo {
        /// The whole URL.
        url: String,
        /// The database that it names.
        database: String,
    },
}

impl std::fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(folder) => write!(f, "file:{}", folder.display()),
            Self::Mongo { database, .. } => write!(f, "mongodb://…/{database}"),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(folder) = text.strip_prefix("file:") {
            return if folder.is_empty() {
                Err("name a folder: file:DIR")
            } else {
                Ok(Self::Embedded(folder.into()))
            };
        }
        let Some((_scheme, rest)) = text
            .split_once("://")
            .filter(|(scheme, _)| scheme.starts_with("mongodb"))
        else {
            return Err("expected file:DIR or mongodb://HOST/DATABASE");
        };
        let database = rest
            .split_once('/')
            .map(|(_hosts, path)| path.split('?').next().unwrap_or_default());
        match database {
            Some(database) if !database.is_empty() => Ok(Self::Mongo {
                url: text.into(),
                database: database.into(),
            }),
            _ => Err("name the database: mongodb://HOST/DATABASE"),
        }
    }
}

/// What a store needs to know of its publisher.
#[derive(Debug)]
pub struct PublisherPolicy {
    /// The collections it serves.
    pub collections: BTreeSet<CollectionName>,
    /// What documents must obey.
    pub rules: Rules,
    /// Whether changes are owed to an event manager.
    pub events_enabled: bool,
}

/// The open store.
#[derive(Debug, Clone)]
pub enum Store {
    /// In a folder of this process.
    Embedded(embedded::Embedded),
    /// In MongoDB.
    Mongo(mongo::Mongo),
}

/// A group that was committed, or the first part of it that fits into one transaction.
#[derive(Debug, Default)]
pub struct Committed {
    /// One verdict per entry, in order. Those at the end that have none are still to be done.
    pub verdicts: Vec<WriteResult>,
    /// What changed.
    pub changes: Vec<Change>,
}

/// Why a group was not, or not provably, committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written; it may work another time.
    #[error("not committed: {0:#}")]
    NotCommitted(anyhow::Error),
    /// Nothing was written, because of something in this very group: it may work in parts.
    #[error("refused by the store: {0:#}")]
    Refused(anyhow::Error),
    /// It may or may not have been written.
    #[error("the outcome is unknown: {0:#}")]
    OutcomeUnknown(anyhow::Error),
}

impl CommitError {
    /// The answer to every command of the group.
    pub fn answer(&self) -> WriteError {
        match self {
            Self::NotCommitted(_) | Self::Refused(_) => WriteError::NotCommitted,
            Self::OutcomeUnknown(_) => WriteError::OutcomeUnknown,
        }
    }
}

/// What became of the oldest changes of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// How many went.
    pub changes: usize,
    /// The change that is old enough to go and stays because it is owed.
    pub held_up: Option<Revision>,
}

/// All documents of some collections at one moment, handed out in pieces.
#[derive(Debug)]
pub struct Reading {
    /// The history of the store at that moment.
    pub epoch: Epoch,
    /// The heads at that moment, in the order of the documents.
    pub heads: Vec<Head>,
    cursor: Cursor,
}

#[derive(Debug)]
enum Cursor {
    Embedded(embedded::Cursor),
    Mongo(Box<mongo::Cursor>),
}

/// Some documents of one collection, by id.
#[derive(Debug)]
pub struct Piece {
    /// Their collection.
    pub collection: CollectionName,
    /// The documents.
    pub documents: Vec<Document>,
}

impl Reading {
    /// The next documents, by collection and id; `None` after the last.
    ///
    /// # Errors
    /// When the store fails; the reading is then over.
    pub async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        match &mut self.cursor {
            Cursor::Embedded(cursor) => cursor.next().await,
            Cursor::Mongo(cursor) => cursor.next().await,
        }
    }
}

impl Store {
    /// What it was told of its publisher.
    pub fn terms(&self) -> &PublisherPolicy {
        match self {
            Self::Embedded(store) => store.terms(),
            Self::Mongo(store) => store.terms(),
        }
    }

    /// Opens the store, and makes it if it is virgin.
    ///
    /// # Errors
    /// When it cannot be reached, is of an unknown format, or is a MongoDB without transactions.
    pub async fn open(url: &StoreUrl, terms: Arc<PublisherPolicy>) -> anyhow::Result<Self> {
        match url {
            StoreUrl::Embedded(folder) => embedded::Embedded::open(folder, terms)
                .await
                .map(Self::Embedded),
            StoreUrl::Mongo { url, database } => mongo::Mongo::open(url, database, terms)
                .await
                .map(Self::Mongo),
        }
    }

    /// Commits a group of writes and sets.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn commit(&self, group: Arc<[Command]>) -> Result<Committed, CommitError> {
        match self {
            Self::Embedded(store) => store.commit(group).await,
            Self::Mongo(store) => store.commit(&group).await,
        }
    }

    /// One consistent reading of heads.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn heads(&self, collections: &BTreeSet<CollectionName>) -> anyhow::Result<Vec<Head>> {
        match self {
            Self::Embedded(store) => store.heads(collections).await,
            Self::Mongo(store) => store.heads(collections).await,
        }
    }

    /// One document.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        match self {
            Self::Embedded(store) => store.document(collection, id).await,
            Self::Mongo(store) => store.document(collection, id).await,
        }
    }

    /// All documents of some collections, from one moment.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read(&self, collections: &BTreeSet<CollectionName>) -> anyhow::Result<Reading> {
        match self {
            Self::Embedded(store) => store.read(collections).await,
            Self::Mongo(store) => store.read(collections).await,
        }
    }

    /// The changes of a collection after a revision, in order, at most `limit` of them, and no more
    /// once their values reach `bytes`; at least one if there is one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn changes(
        &self,
        collection: &CollectionName,
        since: Revision,
        limit: usize,
        bytes: usize,
    ) -> anyhow::Result<Vec<Change>> {
        match self {
            Self::Embedded(store) => store.changes(collection, since, limit, bytes).await,
            Self::Mongo(store) => store.changes(collection, since, limit, bytes).await,
        }
    }

    /// Changes of a collection after a revision that are owed and were not committed in the range
    /// `fresh`, in order, at most `limit`. (What seems to come from the future was committed by
    /// a clock that was wrong.)
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn owed(
        &self,
        collection: &CollectionName,
        after: Revision,
        fresh: Range<DateTime<Utc>>,
        limit: usize,
    ) -> anyhow::Result<Vec<Change>> {
        match self {
            Self::Embedded(store) => store.owed(collection, after, fresh, limit).await,
            Self::Mongo(store) => store.owed(collection, after, fresh, limit).await,
        }
    }

    /// Notes that changes were published. Losing this note is harmless: they are published once
    /// more.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn clear_owed(&self, published: &[(CollectionName, Revision)]) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.clear_owed(published).await,
            Self::Mongo(store) => store.clear_owed(published).await,
        }
    }

    /// Takes the oldest changes of a collection out of the log, at most `limit`: those that are not
    /// among the newest `keep`, were committed before a moment, and are not owed; none behind
    /// one that stays. The head moves first or with them. Where events are switched off nothing
    /// counts as owed, because this publisher will never send it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn trim(
        &self,
        collection: &CollectionName,
        keep: u64,
        before: DateTime<Utc>,
        limit: usize,
    ) -> anyhow::Result<Trimmed> {
        match self {
            Self::Embedded(store) => store.trim(collection, keep, before, limit).await,
            Self::Mongo(store) => store.trim(collection, keep, before, limit).await,
        }
    }

    /// Why this process can no longer write and has to start anew, if that is so.
    pub fn broken(&self) -> Option<String> {
        match self {
            Self::Embedded(store) => store.broken(),
            Self::Mongo(_) => None,
        }
    }

    /// Ends once [`Store::broken`] says why.
    pub async fn until_broken(&self) {
        match self {
            Self::Embedded(store) => store.until_broken().await,
            Self::Mongo(_) => std::future::pending().await,
        }
    }

    /// What this publisher has seen committed, where another process can put the store back beneath
    /// it.
    pub fn newest(&self) -> Option<&committed_heads::CommittedHeads> {
        match self {
            Self::Embedded(_) => None,
            Self::Mongo(store) => Some(store.newest()),
        }
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store
                .broken()
                .map_or(Ok(()), |why| Err(anyhow::anyhow!(why))),
            Self::Mongo(store) => store.ping().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_urls() {
        assert_eq!("file:data".parse(), Ok(StoreUrl::Embedded("data".into())));
        let url = "mongodb://u:secret@a:1,b:2/conf?replicaSet=rs0";
        let parsed: StoreUrl = url.parse().expect("valid");
        assert_eq!(
            parsed,
            StoreUrl::Mongo {
                url: url.into(),
                database: "conf".into()
            }
        );
        assert!(!format!("{parsed:?}").contains("secret"));
        for bad in [
            "file:",
            "data",
            "mongodb://host",
            "mongodb://host/",
            "mongodb://host/?a=b",
            "http://host/db",
        ] {
            assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
        }
    }

    /// A publisher whose clock was an hour ahead died, and left its events to the others.
    #[tokio::test]
    async fn what_seems_to_come_from_the_future_is_owed_as_well() {
        use crate::decide::{Action, Condition, Write, schemas::Schemas};
        let folder = tempfile::TempDir::new().expect("a folder");
        let name: CollectionName = "A".parse().expect("a name");
        let rules = Rules {
            schemas: Schemas::default(),
            document_limit: 1_000,
        };
        let terms = PublisherPolicy {
            collections: BTreeSet::from([name.clone()]),
            rules,
            events_enabled: true,
        };
        let store = Store::open(&StoreUrl::Embedded(folder.path().into()), Arc::new(terms))
            .await
            .expect("a store");
        let action = Action::Create(contract::CanonicalJson::parse(b"{}").expect("json"));
        let (id, condition) = ("x".parse().expect("an id"), Condition::Any);
        let write = Write {
            collection: name.clone(),
            id,
            action,
            condition,
            context: contract::Context::default(),
        };
        store
            .commit(Arc::from([Command::Single(write)]))
            .await
            .expect("committed");
        let second = chrono::TimeDelta::seconds(1);
        for (now, found) in [
            (Utc::now(), 0),
            (Utc::now() - second * 3_600, 1),
            (Utc::now() + second * 3_600, 1),
        ] {
            let owed = store
                .owed(&name, 0, now - second * 60..now + second * 60, 9)
                .await
                .expect("a log");
            assert_eq!(owed.len(), found, "{now}");
        }
    }
}
