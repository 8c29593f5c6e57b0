//! The embedded store: one redb file. It is the default and needs no server.
//!
//! One process at a time may have it open. Every call runs on the blocking pool, because redb waits
//! for the disk; a group is one transaction and one fsync.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    path::Path,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use contract::{Change, CollectionName, Document, DocumentId, Epoch, Head, Revision};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError, TransactionError, WriteTransaction,
};
use tokio_util::sync::CancellationToken;

use crate::{
    decide::{Command, Decisions, DocumentKey, WorkingSet},
    store::{CommitError, Committed, PublisherPolicy},
};

mod fleet;
mod reading;
#[cfg(test)]
mod tests;
mod trim;

pub(super) use reading::Cursor;

/// `lineage`, `counter`, `format`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Head by collection, as JSON.
const HEADS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("heads");
/// Revision and canonical text by collection and id.
const DOCUMENTS: TableDefinition<'_, (&str, &str), (u64, &str)> = TableDefinition::new("documents");
/// Change by collection and revision, as JSON.
const CHANGES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("changes");
/// Commit time in milliseconds of each change that is owed, by collection and revision.
const OWED: TableDefinition<'_, (&str, u64), i64> = TableDefinition::new("owed");

/// What the tables above mean.
const FORMAT: u64 = 1;

/// The open file. Cloning shares it.
#[derive(Clone)]
pub struct Embedded {
    database: Arc<Database>,
    terms: Arc<PublisherPolicy>,
    /// Set once the disk failed under any call: redb then refuses every write until the file is
    /// opened anew.
    broken: Arc<Broken>,
}

#[derive(Default)]
struct Broken {
    why: OnceLock<String>,
    is: CancellationToken,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Embedded")
    }
}

impl Embedded {
    pub(super) async fn open(folder: &Path, terms: Arc<PublisherPolicy>) -> anyhow::Result<Self> {
        let folder = folder.to_owned();
        blocking(move || {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("making the folder {}", folder.display()))?;
            let file = folder.join("confcast.redb");
            let database = Database::create(&file).with_context(|| {
                format!(
                    "opening {}: is another publisher using it? One process at a time may",
                    file.display()
                )
            })?;
            prepare(&database).with_context(|| format!("reading {}", file.display()))?;
            Ok(Self {
                database: Arc::new(database),
                terms,
                broken: Arc::default(),
            })
        })
        .await
    }

    pub(super) fn terms(&self) -> &PublisherPolicy {
        &self.terms
    }

    pub(super) fn broken(&self) -> Option<String> {
        self.broken.why.get().cloned()
    }

    /// Ends once this process can no longer write.
    pub(super) async fn until_broken(&self) {
        self.broken.is.cancelled().await;
    }

    /// A call on the blocking pool.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let database = self.database.clone();
        blocking(move || work(&database))
            .await
            .inspect_err(|error| self.judge(error))
    }

    /// The disk failed, whichever call it was: nothing will be written until the file is opened
    /// anew.
    fn judge(&self, error: &anyhow::Error) {
        if disk_failed(error) {
            self.give_up(error);
        }
    }

    fn give_up(&self, error: &anyhow::Error) {
        self.broken
            .why
            .get_or_init(|| format!("the embedded store failed on its disk: {error:#}"));
        self.broken.is.cancel();
    }

    pub(super) async fn commit(&self, group: Arc<[Command]>) -> Result<Committed, CommitError> {
        let this = self.clone();
        let committed = tokio::task::spawn_blocking(move || this.commit_now(&group)).await;
        committed.unwrap_or_else(|panic| Err(self.break_down(panic.into())))
    }

    fn commit_now(&self, group: &[Command]) -> Result<Committed, CommitError> {
        let decided = self
            .decide_and_write(group)
            .inspect_err(|error| self.judge(error));
        let (transaction, folded) = decided.map_err(CommitError::NotCommitted)?;
        if let Some(transaction) = transaction {
            // The pages may have reached the disk before the error: only opening the file anew
            // tells.
            transaction
                .commit()
                .map_err(|error| self.break_down(error.into()))?;
        }
        Ok(Committed {
            verdicts: folded.results,
            changes: folded.changes,
        })
    }

    fn decide_and_write(
        &self,
        group: &[Command],
    ) -> anyhow::Result<(Option<WriteTransaction>, Decisions)> {
        let transaction = self.database.begin_write()?;
        let folded = self
            .terms
            .rules
            .evaluate(ground(&transaction, group)?, group, Utc::now());
        if folded.changes.is_empty() {
            transaction.abort()?;
            return Ok((None, folded));
        }
        write(
            &transaction,
            &folded.changes,
            &folded.after,
            self.terms.events_enabled,
        )?;
        Ok((Some(transaction), folded))
    }

    fn break_down(&self, error: anyhow::Error) -> CommitError {
        self.give_up(&error);
        CommitError::OutcomeUnknown(error)
    }

    pub(super) async fn heads(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<Vec<Head>> {
        let collections = collections.clone();
        self.call(move |database| heads(&database.begin_read()?, &collections))
            .await
    }

    pub(super) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        let (collection, id) = (collection.clone(), id.clone());
        self.call(move |database| {
            let documents = database.begin_read()?.open_table(DOCUMENTS)?;
            let held = documents.get((collection.as_str(), id.as_str()))?;
            Ok(held.map(|held| document(id, held.value())))
        })
        .await
    }

    pub(super) async fn changes(
        &self,
        collection: &CollectionName,
        since: Revision,
        limit: usize,
        bytes: usize,
    ) -> anyhow::Result<Vec<Change>> {
        let collection = collection.clone();
        self.call(move |database| {
            let changes = database.begin_read()?.open_table(CHANGES)?;
            let (mut found, mut taken) = (Vec::new(), 0);
            for row in changes.range(after(&collection, since))?.take(limit) {
                let (_place, change) = row?;
                found.push(serde_json::from_slice(change.value())?);
                taken += change.value().len();
                if taken >= bytes {
                    break;
                }
            }
            Ok(found)
        })
        .await
    }

    pub(super) async fn owed(
        &self,
        collection: &CollectionName,
        since: Revision,
        fresh: Range<DateTime<Utc>>,
        limit: usize,
    ) -> anyhow::Result<Vec<Change>> {
        let collection = collection.clone();
        let fresh = fresh.start.timestamp_millis()..fresh.end.timestamp_millis();
        self.call(move |database| {
            let transaction = database.begin_read()?;
            let (owed, changes) = (
                transaction.open_table(OWED)?,
                transaction.open_table(CHANGES)?,
            );
            let mut found = Vec::new();
            for row in owed.range(after(&collection, since))? {
                let (place, committed) = row?;
                if found.len() == limit {
                    break;
                }
                if fresh.contains(&committed.value()) {
                    continue;
                }
                let change = changes
                    .get(place.value())?
                    .context("an owed change is not in the log")?;
                found.push(serde_json::from_slice(change.value())?);
            }
            Ok(found)
        })
        .await
    }

    pub(super) async fn clear_owed(
        &self,
        published: &[(CollectionName, Revision)],
    ) -> anyhow::Result<()> {
        let published = published.to_vec();
        self.call(move |database| {
            let mut transaction = database.begin_write()?;
            // Not worth an fsync of its own: the next group makes it durable, and losing it only
            // sends an event twice.
            transaction.set_durability(redb::Durability::None)?;
            let mut owed = transaction.open_table(OWED)?;
            for (collection, revision) in &published {
                owed.remove((collection.as_str(), *revision))?;
            }
            drop(owed);
            Ok(transaction.commit()?)
        })
        .await
    }
}

/// The places of a collection after a revision.
fn after(collection: &CollectionName, revision: Revision) -> std::ops::RangeInclusive<(&str, u64)> {
    (collection.as_str(), revision.saturating_add(1))..=(collection.as_str(), u64::MAX)
}

/// Whether redb says that the disk failed, now or before. It latches: after either it refuses every
/// write.
fn disk_failed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let within = [
            cause.downcast_ref::<StorageError>(),
            cause
                .downcast_ref::<TableError>()
                .and_then(|error| match error {
                    TableError::Storage(error) => Some(error),
                    _ => None,
                }),
            cause
                .downcast_ref::<TransactionError>()
                .and_then(|error| match error {
                    TransactionError::Storage(error) => Some(error),
                    _ => None,
                }),
            cause
                .downcast_ref::<redb::CommitError>()
                .and_then(|error| match error {
                    redb::CommitError::Storage(error) => Some(error),
                    _ => None,
                }),
        ];
        within
            .into_iter()
            .flatten()
            .any(|error| matches!(error, StorageError::Io(_) | StorageError::PreviousIo))
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("a store call panicked")?
}

fn prepare(database: &Database) -> anyhow::Result<()> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get("format")?.map(|format| format.value());
        match format {
            Some(format) => ensure!(
                format == FORMAT,
                "its format is {format}; this version reads {FORMAT} only"
            ),
            None => {
                meta.insert("format", FORMAT)?;
                meta.insert("lineage", u64::from(rand::random::<u32>()))?;
                meta.insert("counter", 1)?;
            }
        }
        transaction.open_table(HEADS)?;
        transaction.open_table(DOCUMENTS)?;
        transaction.open_table(CHANGES)?;
        transaction.open_table(OWED)?;
        transaction.open_table(fleet::REPLICAS)?;
    }
    Ok(transaction.commit()?)
}

fn epoch(meta: &impl ReadableTable<&'static str, u64>) -> anyhow::Result<Epoch> {
    let read = |key: &'static str| {
        anyhow::Ok(
            meta.get(key)?
                .with_context(|| format!("{key} is missing"))?
                .value(),
        )
    };
    Ok(Epoch {
        lineage: u32::try_from(read("lineage")?)?,
        counter: read("counter")?,
    })
}

fn head(
    heads: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &CollectionName,
    epoch: Epoch,
) -> anyhow::Result<Head> {
    match heads.get(name.as_str())? {
        Some(head) => Ok(Head {
            epoch,
            ..serde_json::from_slice(head.value())?
        }),
        None => Ok(Head::empty(name.clone(), epoch)),
    }
}

fn heads(
    transaction: &ReadTransaction,
    collections: &BTreeSet<CollectionName>,
) -> anyhow::Result<Vec<Head>> {
    let epoch = epoch(&transaction.open_table(META)?)?;
    let heads = transaction.open_table(HEADS)?;
    collections
        .iter()
        .map(|name| head(&heads, name, epoch))
        .collect()
}

fn document(id: DocumentId, (revision, text): (Revision, &str)) -> Document {
    Document::from_canonical(id, revision, text)
}

fn ground(transaction: &WriteTransaction, group: &[Command]) -> anyhow::Result<WorkingSet> {
    let epoch = epoch(&transaction.open_table(META)?)?;
    let (heads, documents) = (
        transaction.open_table(HEADS)?,
        transaction.open_table(DOCUMENTS)?,
    );
    let mut ground = WorkingSet {
        epoch,
        heads: BTreeMap::new(),
        documents: HashMap::new(),
    };
    for write in group.iter().flat_map(Command::writes) {
        if !ground.heads.contains_key(&write.collection) {
            ground.heads.insert(
                write.collection.clone(),
                head(&heads, &write.collection, epoch)?,
            );
        }
        if let Some(held) = documents.get((write.collection.as_str(), write.id.as_str()))? {
            let place: DocumentKey = (write.collection.clone(), write.id.clone());
            ground
                .documents
                .insert(place, document(write.id.clone(), held.value()));
        }
    }
    Ok(ground)
}

fn write(
    transaction: &WriteTransaction,
    changes: &[Change],
    after: &WorkingSet,
    owe: bool,
) -> anyhow::Result<()> {
    let mut heads = transaction.open_table(HEADS)?;
    let mut documents = transaction.open_table(DOCUMENTS)?;
    let mut log = transaction.open_table(CHANGES)?;
    let mut owed = transaction.open_table(OWED)?;
    for change in changes {
        let collection = change.collection.as_str();
        let place = (collection, change.revision);
        log.insert(place, serde_json::to_vec(change)?.as_slice())?;
        if owe {
            owed.insert(place, change.time.timestamp_millis())?;
        }
        match &change.config_data {
            Some(config) => drop(documents.insert(
                (collection, change.id.as_str()),
                (change.revision, config.as_str()),
            )?),
            None => drop(documents.remove((collection, change.id.as_str()))?),
        }
    }
    let changed: BTreeSet<_> = changes.iter().map(|change| &change.collection).collect();
    for name in changed {
        heads.insert(
            name.as_str(),
            serde_json::to_vec(&after.heads[name])?.as_slice(),
        )?;
    }
    Ok(())
}
