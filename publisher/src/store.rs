//! Where documents, heads and the change log are stored: MongoDB, or a file of this process.
//!
//! Both backends give the same guarantees. The documents, heads and change records of a group
//! become durable together or not at all, and a reader of the log sees revisions in order, without
//! a gap. The store decides nothing about a write; [`crate::decide`] does.
//!
//! [`Store`] below lists the calls. Those for replicas are in [`replicas`], for dead letters in
//! [`dead_letters`], for the epoch in `epoch.rs`, for the audit
//! log in [`audit`]. Each call stands here and in both backends: a trait would add a fourth list of the
//! same signatures and save none.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use chrono::{DateTime, Utc};
use contract::{
    Change, CollectionName, Document, DocumentId, Head, Revision, access::Identity,
    fleet::EventBacklog, references::Referrer,
};
use prometheus_client::metrics::counter::Counter;
use service::http::{feed::FeedLimits, histograms::CallTimes};

use crate::decide::{
    Command, DocumentKey, WriteResult,
    references::{ReferrersByDocument, Searched},
};
pub use crate::decide::{StoreIdentity, StoreSecret};

pub mod audit;
mod commit_error;
pub mod committed_heads;
pub mod damage;
pub mod dead_letters;
mod document_cursor;
mod embedded;
mod epoch;
pub mod integrity;
pub mod log_end;
mod log_record;
mod mongo;
pub mod past;
mod references;
pub mod repair;
pub mod replicas;
pub(crate) mod secret_keys;
pub mod snapshots;
pub mod tokens;
mod url;

pub use commit_error::CommitError;
use committed_heads::CommittedHeads;
use damage::DamageRegister;
pub use document_cursor::{Chunk, DocumentCursor};
use integrity::DamagedRecord;
pub use log_record::FeedRecord;
use log_record::LogRecord;
pub use url::StoreUrl;

pub use crate::policy::{PublisherPolicy, ServedCollections};

/// The open store. Cloning shares the file or the connections.
///
/// Every read sees committed data only: the embedded store reads from a transaction of its own,
/// MongoDB reads at majority. MongoDB calls end within a few seconds, with an error if the server
/// does not answer; calls of the embedded store last as long as the disk takes.
#[derive(Debug, Clone)]
pub enum Store {
    /// In a folder of this process.
    Embedded(embedded::Embedded),
    /// In MongoDB.
    Mongo(mongo::Mongo),
}

/// Whether a call failed because the store is not open yet: [`Store::until_open`] logs that, and nobody
/// else.
pub fn is_not_open(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<mongo::NotOpenError>())
}

impl Store {
    /// Opens the store, and initialises it if it is empty.
    ///
    /// A MongoDB that does not answer is no error: until [`Self::until_open`] has opened it, every call
    /// fails and says why.
    ///
    /// # Errors
    /// When waiting does not help: the folder cannot be opened, the store has an unknown format, or
    /// MongoDB refuses the credentials or has no transactions.
    pub async fn open(url: &StoreUrl, policy: Arc<PublisherPolicy>) -> anyhow::Result<Self> {
        match url {
            StoreUrl::Embedded(folder) => embedded::Embedded::open(folder, policy)
                .await
                .map(Self::Embedded),
            StoreUrl::Mongo { url, database } => mongo::Mongo::open(url.expose(), database, policy)
                .await
                .map(Self::Mongo),
        }
    }

    /// Opens a store that did not answer at the start, as soon as it answers.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn until_open(&self) -> anyhow::Result<()> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Mongo(store) => store.until_open().await,
        }
    }

    /// Attempts to write that a full disk refused. A full MongoDB is not told from one that fails.
    pub fn disk_full(&self) -> Counter {
        match self {
            Self::Embedded(store) => store.disk_full(),
            Self::Mongo(_) => Counter::default(),
        }
    }

    /// Waits until the store is open.
    pub async fn when_open(&self) {
        if let Self::Mongo(store) = self {
            store.when_open().await;
        }
    }

    /// Checks that the store can be read and written: it is open, answers, and has its epoch and all
    /// heads.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn check(&self) -> anyhow::Result<()> {
        if let Self::Embedded(store) = self {
            store.check_file().await?;
        }
        self.heads(&self.policy().collections.all()).await.map(drop)
    }

    /// The policy that the store was opened with.
    pub fn policy(&self) -> &PublisherPolicy {
        match self {
            Self::Embedded(store) => store.policy(),
            Self::Mongo(store) => store.policy(),
        }
    }

    /// Makes the heads of collections that are new to the store, so that they can be served. What the
    /// store has already stays as it is.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn add_collections(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.add_collections(collections).await,
            Self::Mongo(store) => store.opened()?.add_collections(collections).await,
        }
    }

    /// The collections of the store that were ever written, also those that are not served.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn written_collections(&self) -> anyhow::Result<BTreeSet<CollectionName>> {
        match self {
            Self::Embedded(store) => store.written_collections().await,
            Self::Mongo(store) => store.opened()?.written_collections().await,
        }
    }

    /// Evaluates a group of commands against the store and commits the result, in one transaction.
    ///
    /// On success the changes are durable. Groups of all publishers of one store are serialised per
    /// collection. A group that is too large for one transaction is committed in part: see
    /// `Committed::results`. The embedded store blocks the thread of the caller meanwhile.
    ///
    /// # Errors
    /// `CommitError`: nothing was written, or it is unknown whether the group was written.
    pub async fn commit(&self, group: Arc<[Command]>) -> Result<Committed, CommitError> {
        let commit = async {
            match self {
                Self::Embedded(store) => store.commit(group).await,
                Self::Mongo(store) => {
                    let store = store.opened().map_err(CommitError::NotCommitted)?;
                    store.commit(&group).await
                }
            }
        };
        self.times().of("commit", commit).await
    }

    /// What a commit of a command would answer now. Nothing is written.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn judge(&self, command: Command) -> anyhow::Result<WriteResult> {
        match self {
            Self::Embedded(store) => store.judge(command).await,
            Self::Mongo(store) => store.opened()?.judge(command).await,
        }
    }

    /// The heads of some collections, all from one snapshot, ordered by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn heads(&self, collections: &BTreeSet<CollectionName>) -> anyhow::Result<Vec<Head>> {
        let read = async {
            match self {
                Self::Embedded(store) => store.heads(collections).await,
                Self::Mongo(store) => store.opened()?.heads(collections).await,
            }
        };
        self.times().of("heads", read).await
    }

    /// One document; `None` when it does not exist.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        let read = async {
            match self {
                Self::Embedded(store) => store.document(collection, id).await,
                Self::Mongo(store) => store.opened()?.document(collection, id).await,
            }
        };
        self.times().of("document", read).await
    }

    /// All documents and heads of some collections, from one snapshot.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn documents(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<DocumentCursor> {
        let read = async {
            match self {
                Self::Embedded(store) => store.documents(collections).await,
                Self::Mongo(store) => store.opened()?.documents(collections).await,
            }
        };
        self.times().of("documents", read).await
    }

    /// What refers to some documents at one moment, as [`Self::referrers`], and what a later transaction
    /// need not search again. `held` is dropped when the search ends, also when the caller ends first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn search_ahead(
        &self,
        sought: BTreeSet<DocumentKey>,
        limit: usize,
        held: impl Send + 'static,
    ) -> anyhow::Result<(Searched, ReferrersByDocument)> {
        match self {
            Self::Embedded(store) => store.search_ahead(sought, limit, held).await,
            Self::Mongo(store) => {
                // A search in the server ends with the call that made it.
                let _until_read = held;
                store.opened()?.search_ahead(sought, limit).await
            }
        }
    }

    /// The documents that refer to a document, which need not exist, ordered by collection and id. At
    /// most `limit` of them, each with at most 20 places, and any of them if there are more. All
    /// documents of the collections are read whose schemas refer to its collection. `held` is dropped
    /// when the search ends, also when the caller ends first. Documents that `reader` may not read do
    /// not count.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn referrers(
        &self,
        key: DocumentKey,
        limit: usize,
        reader: Identity,
        held: impl Send + 'static,
    ) -> anyhow::Result<Vec<Referrer>> {
        match self {
            Self::Embedded(store) => store.referrers(key, limit, reader, held).await,
            Self::Mongo(store) => {
                let _until_read = held;
                store.opened()?.referrers(key, limit, reader).await
            }
        }
    }

    /// The changes of a collection after the revision `since`, ordered by revision, without a gap.
    ///
    /// At most `limit` changes, and none after the one with which their records reach `bytes`; at
    /// least one if there is one.
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
        self.records(collection, since, limit, bytes).await
    }

    /// As [`Self::changes`], as the feed sends them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn feed_records(
        &self,
        collection: &CollectionName,
        since: Revision,
        limits: FeedLimits,
    ) -> anyhow::Result<Vec<FeedRecord>> {
        self.records(collection, since, limits.changes, limits.bytes)
            .await
    }

    async fn records<T: LogRecord + Send + 'static>(
        &self,
        collection: &CollectionName,
        since: Revision,
        limit: usize,
        bytes: usize,
    ) -> anyhow::Result<Vec<T>> {
        let read = async {
            match self {
                Self::Embedded(store) => store.records(collection, since, limit, bytes).await,
                Self::Mongo(store) => {
                    let store = store.opened()?;
                    store.records(collection, since, limit, bytes).await
                }
            }
        };
        self.times().of("changes", read).await
    }

    /// The pending changes of a collection after the revision `since` whose commit time is outside
    /// `recent`, ordered by revision. At most `limit` records are read; a damaged one is left out.
    ///
    /// A commit time after `recent` comes from a publisher with a wrong clock; such a change is
    /// returned too.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn pending(
        &self,
        collection: &CollectionName,
        since: Revision,
        recent: Range<DateTime<Utc>>,
        limit: usize,
    ) -> anyhow::Result<PendingPage> {
        let read = async {
            match self {
                Self::Embedded(store) => store.pending(collection, since, recent, limit).await,
                Self::Mongo(store) => {
                    let store = store.opened()?;
                    store.pending(collection, since, recent, limit).await
                }
            }
        };
        let page = self.times().of("pending", read).await?;
        if !page.damaged.is_empty() {
            // A repair lets the log begin after damaged records: then nobody reads them.
            let oldest = match self.stored_head(collection).await? {
                Some(Ok(head)) => head.oldest,
                _damaged_or_gone => 0,
            };
            for damaged in &page.damaged {
                if damaged.revision >= oldest {
                    self.damage().report_record(damaged);
                }
            }
        }
        Ok(page)
    }

    /// How many changes are pending in the collections that are published, up to
    /// [`MAX_BACKLOG`](contract::fleet::MAX_BACKLOG), and since when. Beyond that the age is of those
    /// that were counted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn backlog(&self) -> anyhow::Result<EventBacklog> {
        let policy = self.policy();
        // The others keep what was pending when they had a topic, and nobody publishes it.
        let mut published = Vec::from_iter(policy.collections.all().iter().cloned());
        published.retain(|collection| policy.broadcast.publishes(collection));
        let (pending, oldest) = match self {
            Self::Embedded(store) => store.backlog(published).await?,
            Self::Mongo(store) => store.opened()?.backlog(&published).await?,
        };
        // The clock of another publisher may be ahead.
        let age = oldest.map(|oldest| Utc::now().signed_duration_since(oldest));
        let age = age.map_or(0, |age| age.num_milliseconds().max(0).unsigned_abs());
        Ok(EventBacklog {
            pending,
            oldest_ms: age,
        })
    }

    /// Records that changes were published: they are no longer pending.
    ///
    /// This is not durable at once. If it is lost, the changes are published again.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn mark_published(
        &self,
        published: &[(CollectionName, Revision)],
    ) -> anyhow::Result<()> {
        let mark = async {
            match self {
                Self::Embedded(store) => store.mark_published(published).await,
                Self::Mongo(store) => store.opened()?.mark_published(published).await,
            }
        };
        self.times().of("mark_published", mark).await
    }

    /// Removes the oldest changes of a collection from the log, at most `limit`.
    ///
    /// A change is removed when it is not among the newest `keep`, was committed before `before`,
    /// and is not pending. Only a prefix of the log is removed: nothing after the first change that
    /// stays. What past states need of them stays as base records: see `past`. The `oldest` of the
    /// head is raised before the records are removed, or together with
    /// them. Where this publisher sends no events of the collection no change counts as pending,
    /// because it will never publish it.
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
        match self.cover(collection).await {
            // A document that cannot be read must not keep the log from being trimmed.
            Err(error) if integrity::is_damage(&error) => {}
            covered => covered?,
        }
        self.sweep(collection).await?;
        let trim = async {
            match self {
                Self::Embedded(store) => store.trim(collection, keep, before, limit).await,
                Self::Mongo(store) => store.opened()?.trim(collection, keep, before, limit).await,
            }
        };
        self.times().of("trim", trim).await
    }

    /// Why this process can no longer write and has to be restarted, if that is so.
    pub fn broken(&self) -> Option<String> {
        match self {
            Self::Embedded(store) => store.broken(),
            // The driver reconnects without help.
            Self::Mongo(_) => None,
        }
    }

    /// Waits until [`Store::broken`] gives a reason.
    pub async fn until_broken(&self) {
        match self {
            Self::Embedded(store) => store.until_broken().await,
            Self::Mongo(_) => std::future::pending().await,
        }
    }

    /// The heads that this publisher knows to be committed, where another process can restore an
    /// older state of the store; `None` for the embedded store, which only this process can open.
    pub fn committed_heads(&self) -> Option<&CommittedHeads> {
        match self {
            Self::Embedded(_) => None,
            Self::Mongo(store) => Some(store.committed_heads()),
        }
    }

    /// How long its calls took.
    pub fn times(&self) -> &CallTimes {
        match self {
            Self::Embedded(store) => store.times(),
            Self::Mongo(store) => store.times(),
        }
    }

    /// The damaged rows that this process knows of.
    pub fn damage(&self) -> &DamageRegister {
        match self {
            Self::Embedded(store) => store.damage(),
            Self::Mongo(store) => store.damage(),
        }
    }
}

/// A committed group, or the first part of it that fits into one transaction.
#[derive(Debug, Default)]
pub struct Committed {
    /// One result per entry, in order. Entries at the end without a result are not evaluated yet:
    /// the caller commits them in the next group.
    pub results: Vec<WriteResult>,
    /// The committed changes.
    pub changes: Vec<Change>,
}

/// A page of pending changes.
#[derive(Debug, Default)]
pub struct PendingPage {
    /// Those that can be published, ordered by revision.
    pub changes: Vec<Change>,
    /// Those that cannot be read. They must not keep the changes after them from being published.
    damaged: Vec<DamagedRecord>,
    /// The next page begins after this revision; `None` after the last page.
    pub next: Option<Revision>,
}

impl PendingPage {
    /// The page that was read after `since`, of at most `limit` rows.
    fn new(read: LogRows<Change>, since: Revision, limit: usize) -> Self {
        // A row whose revision cannot be read must not keep the next page at this one.
        let reached = read.last.max(since.saturating_add(1));
        Self {
            changes: read.whole,
            damaged: read.damaged,
            next: (read.rows >= limit).then_some(reached),
        }
    }
}

/// Rows of the change log that were read, in order.
#[derive(Debug)]
struct LogRows<T> {
    /// The whole ones.
    whole: Vec<T>,
    /// The others.
    damaged: Vec<DamagedRecord>,
    /// How many were read, damaged ones included.
    rows: usize,
    /// The revision of the last one; 0 if that cannot be read.
    last: Revision,
}

impl<T> Default for LogRows<T> {
    fn default() -> Self {
        Self {
            whole: Vec::new(),
            damaged: Vec::new(),
            rows: 0,
            last: 0,
        }
    }
}

impl<T: LogRecord> LogRows<T> {
    fn add(&mut self, row: Result<T, DamagedRecord>) {
        self.rows += 1;
        match row {
            Ok(record) => {
                self.last = record.key().1;
                self.whole.push(record);
            }
            Err(damaged) => {
                self.last = damaged.revision;
                self.damaged.push(damaged);
            }
        }
    }
}

/// Bytes of records that one step of [`Store::trim`] removes, approximately.
const TRIM_BYTES: usize = 4 << 20;

/// What [`Store::trim`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// How many changes were removed.
    pub changes: usize,
    /// Whether more may be removed at once: a step is bounded.
    pub more: bool,
    /// The first change that is old enough to be removed and stays because it is pending.
    pub blocked_by: Option<Revision>,
}

#[cfg(test)]
mod tests;
