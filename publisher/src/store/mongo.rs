//! The MongoDB store: the only file that speaks to MongoDB.
//!
//! Documents are native BSON `{_id, revision, crc, configData}` in collections named like the configuration collections;
//! `_heads`, `_changes` and `_meta` stand beside them. A group is one transaction; the head documents serialise writers,
//! whichever publisher they belong to. It needs a replica set (one node is enough) and says so.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use contract::{Change, CollectionName, Document, DocumentId, Epoch, Head, Revision};
use mongodb::{
    Client, ClientSession, Database, IndexModel, SessionCursor,
    bson::{self, Bson, Document as Bdoc, doc},
    options::{
        Acknowledgment, ClientOptions, CollectionOptions, IndexOptions, ReadConcern, ReadPreference, SelectionCriteria,
        WriteConcern,
    },
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{CommitError, Committed, PIECE_BYTES, Piece, Reading, Terms, bson_text};
use crate::fold::{Folded, Ground, Write};

const HEADS: &str = "_heads";
const CHANGES: &str = "_changes";
const META: &str = "_meta";
/// `_id` of the one document in [`META`].
const STORE: &str = "store";
/// What the collections above mean.
const FORMAT: i64 = 1;

/// One call to the database.
const CALL: Duration = Duration::from_secs(3);
/// A group, with all its retries.
const GROUP: Duration = Duration::from_secs(5);

const LATE: &str = "MongoDB did not answer in time";

/// The open database. Cloning shares the connections.
#[derive(Debug, Clone)]
pub struct Mongo {
    client: Client,
    database: Database,
    terms: Arc<Terms>,
}

impl Mongo {
    pub(super) async fn open(url: &str, database: &str, terms: Arc<Terms>) -> anyhow::Result<Self> {
        let client = Client::with_options(options(url).await?).context("the MongoDB settings")?;
        let store = Self { database: client.database(database), client, terms };
        store.require_transactions().await?;
        store.prepare().await.context("preparing the database")?;
        Ok(store)
    }

    async fn require_transactions(&self) -> anyhow::Result<()> {
        let hello = call(self.database.run_command(doc! { "hello": 1 })).await.context("reaching MongoDB")?;
        // A mongos has no setName but says so; a standalone has neither.
        ensure!(
            hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid"),
            "this MongoDB is a standalone server, which has no transactions. One node is enough: start it with \
             `mongod --replSet rs0` and run `mongosh --eval 'rs.initiate()'` once"
        );
        Ok(())
    }

    /// Makes what is missing. Several publishers may do it at once.
    async fn prepare(&self) -> anyhow::Result<()> {
        let virgin = doc! { "lineage": i64::from(rand::random::<u32>()), "counter": 1_i64, "format": FORMAT };
        self.upsert(META, STORE, virgin).await?;
        let meta = call(self.table(META).find_one(doc! { "_id": STORE })).await?.context("_meta is empty")?;
        let format = meta.get_i64("format")?;
        ensure!(format == FORMAT, "the format of the store is {format}; this version reads {FORMAT} only");
        for collection in &self.terms.collections {
            self.upsert(HEADS, collection.as_str(), virgin_head()).await?;
            // A transaction must not have to make the collection.
            if let Err(error) = call(self.database.create_collection(collection.as_str())).await {
                ensure!(is_code(&error, 48), error); // 48 = NamespaceExists
            }
        }
        let unique = IndexOptions::builder().unique(true).build();
        let partial = IndexOptions::builder().partial_filter_expression(doc! { "owed": true }).build();
        let indexes = [
            IndexModel::builder().keys(doc! { "collection": 1, "revision": 1 }).options(unique).build(),
            IndexModel::builder().keys(doc! { "time": 1 }).options(partial).build(),
            IndexModel::builder().keys(doc! { "collection": 1, "id": 1, "revision": 1 }).build(),
        ];
        call(self.table(CHANGES).create_indexes(indexes)).await?;
        Ok(())
    }

    async fn upsert(&self, table: &str, id: &str, value: Bdoc) -> anyhow::Result<()> {
        let table = self.table(table);
        // 11000 = DuplicateKey: another publisher was quicker.
        match call(table.update_one(doc! { "_id": id }, doc! { "$setOnInsert": value }).upsert(true)).await {
            Err(error) if !is_code(&error, 11000) => Err(error),
            _ => Ok(()),
        }
    }

    fn table(&self, name: &str) -> mongodb::Collection<Bdoc> {
        self.database.collection(name)
    }

    pub(super) async fn commit(&self, group: &[Write]) -> Result<Committed, CommitError> {
        let deadline = Instant::now() + GROUP;
        loop {
            match self.attempt(group, deadline).await {
                Ok(committed) => return Ok(committed),
                Err(Failure::Again(error)) if Instant::now() >= deadline => {
                    return Err(CommitError::NotCommitted(error));
                }
                // Another publisher was quicker: decide anew on what it left, after a moment that differs between us.
                Err(Failure::Again(_conflict)) => sleep(Duration::from_millis(rand::random_range(1..=50))).await,
                Err(Failure::Final(error)) => return Err(error),
            }
        }
    }

    async fn attempt(&self, group: &[Write], deadline: Instant) -> Result<Committed, Failure> {
        let mut session = call(self.client.start_session()).await.map_err(Failure::Again)?;
        let write_id = Uuid::now_v7().to_string();
        let decided = timeout(CALL, self.decide_and_write(&mut session, group, &write_id)).await;
        let folded = match decided.context(LATE).and_then(|in_time| in_time) {
            Ok(folded) => folded,
            Err(error) => {
                // Dropping the session would do the same, later; until then its locks hold up every other publisher.
                if let Err(error) = call(session.abort_transaction()).await {
                    debug!("a transaction could not be aborted, the server will: {error:#}");
                }
                return Err(if is_passing(&error) {
                    Failure::Again(error)
                } else {
                    Failure::Final(CommitError::NotCommitted(error))
                });
            }
        };
        self.finish(&mut session, &folded, &write_id, deadline).await?;
        Ok(Committed { verdicts: folded.verdicts, changes: folded.changes })
    }

    /// Everything is decided before the first write, and between the first write and the commit nothing is awaited but
    /// the writes themselves: a publisher that dies here holds its locks until the server ends the transaction.
    async fn decide_and_write(
        &self,
        session: &mut ClientSession,
        group: &[Write],
        write_id: &str,
    ) -> anyhow::Result<Folded> {
        session.start_transaction().read_concern(ReadConcern::snapshot()).write_concern(durable()).await?;
        let ground = self.ground(session, group).await?;
        let before: BTreeMap<_, _> =
            ground.heads.values().map(|head| (head.collection.clone(), head.revision)).collect();
        let folded = self.terms.rules.fold(ground, group, Utc::now());
        if folded.changes.is_empty() {
            return Ok(folded);
        }
        let commands = WriteCommands::new(&folded, &before, write_id, self.terms.events_enabled)?;
        for (filter, update) in commands.heads {
            let done = self.table(HEADS).update_one(filter, update).session(&mut *session).await?;
            ensure!(done.matched_count == 1, Conflict);
        }
        for command in commands.documents {
            let answer = self.database.run_command(command).session(&mut *session).await?;
            if let Some(errors) = answer.get("writeErrors") {
                bail!("MongoDB refused a document: {errors}");
            }
        }
        self.table(CHANGES).insert_many(commands.changes).session(session).await?;
        Ok(folded)
    }

    async fn ground(&self, session: &mut ClientSession, group: &[Write]) -> anyhow::Result<Ground> {
        let mut wanted = BTreeMap::<&CollectionName, BTreeSet<&str>>::new();
        for write in group {
            wanted.entry(&write.collection).or_default().insert(write.id.as_str());
        }
        let epoch = self.epoch(session).await?;
        let heads = self.heads_in(session, epoch, wanted.keys().copied()).await?;
        let mut documents = HashMap::new();
        for (collection, ids) in wanted {
            let ids: Vec<_> = ids.into_iter().collect();
            let mut found =
                self.table(collection.as_str()).find(doc! { "_id": { "$in": ids } }).session(&mut *session).await?;
            while let Some(row) = found.next(session).await.transpose()? {
                let document = document(&row)?;
                documents.insert((collection.clone(), document.id().clone()), document);
            }
        }
        Ok(Ground { epoch, heads: heads.into_iter().map(|head| (head.collection.clone(), head)).collect(), documents })
    }

    /// Commits, and when the answer is lost, finds out: retries the commit, then looks for the records.
    async fn finish(
        &self,
        session: &mut ClientSession,
        folded: &Folded,
        write_id: &str,
        deadline: Instant,
    ) -> Result<(), Failure> {
        loop {
            let error = match call(session.commit_transaction()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Only this says that the transaction is proven gone.
            if has_label(&error, mongodb::error::TRANSIENT_TRANSACTION_ERROR) {
                return match self.is_written(folded, write_id).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Failure::Again(error)),
                    Err(lost) => Err(Failure::Final(CommitError::OutcomeUnknown(lost))),
                };
            }
            if Instant::now() >= deadline {
                return match self.is_written(folded, write_id).await {
                    Ok(true) => Ok(()),
                    // Not there *yet* proves nothing while the commit may still be on its way.
                    _ => Err(Failure::Final(CommitError::OutcomeUnknown(error))),
                };
            }
            sleep(Duration::from_millis(rand::random_range(1..=50))).await;
        }
    }

    /// Whether the records of this very attempt are in the log, as the majority sees it.
    async fn is_written(&self, folded: &Folded, write_id: &str) -> anyhow::Result<bool> {
        let Some(change) = folded.changes.first() else { return Ok(true) };
        let revision = i64::try_from(change.revision)?;
        let filter = doc! { "collection": change.collection.as_str(), "revision": revision, "writeId": write_id };
        Ok(call(self.table(CHANGES).find_one(filter)).await?.is_some())
    }

    async fn epoch(&self, session: &mut ClientSession) -> anyhow::Result<Epoch> {
        let meta = self.table(META).find_one(doc! { "_id": STORE }).session(session).await?;
        let meta = meta.context("_meta is empty: was the database dropped under this publisher?")?;
        Ok(Epoch { lineage: u32::try_from(meta.get_i64("lineage")?)?, counter: number(&meta, "counter")? })
    }

    async fn heads_in(
        &self,
        session: &mut ClientSession,
        epoch: Epoch,
        collections: impl Iterator<Item = &CollectionName>,
    ) -> anyhow::Result<Vec<Head>> {
        let names: Vec<_> = collections.map(CollectionName::as_str).collect();
        let table = self.table(HEADS);
        let mut rows =
            table.find(doc! { "_id": { "$in": &names } }).sort(doc! { "_id": 1 }).session(&mut *session).await?;
        let mut heads = Vec::new();
        while let Some(row) = rows.next(session).await.transpose()? {
            heads.push(head(&row, epoch)?);
        }
        ensure!(
            heads.len() == names.len(),
            "_heads lacks a collection: was the database dropped under this publisher?"
        );
        Ok(heads)
    }

    pub(super) async fn heads(&self, collections: &BTreeSet<CollectionName>) -> anyhow::Result<Vec<Head>> {
        let mut session = self.snapshot_session().await?;
        let read = async {
            let epoch = self.epoch(&mut session).await?;
            self.heads_in(&mut session, epoch, collections.iter()).await
        };
        timeout(CALL, read).await.context(LATE)?
    }

    pub(super) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        let row = call(self.table(collection.as_str()).find_one(doc! { "_id": id.as_str() })).await?;
        row.map(|row| document(&row)).transpose()
    }

    pub(super) async fn read(&self, collections: &BTreeSet<CollectionName>) -> anyhow::Result<Reading> {
        let mut session = self.snapshot_session().await?;
        let begin = async {
            let epoch = self.epoch(&mut session).await?;
            anyhow::Ok((epoch, self.heads_in(&mut session, epoch, collections.iter()).await?))
        };
        let (epoch, heads) = timeout(CALL, begin).await.context(LATE)??;
        let left = collections.iter().cloned().collect();
        let cursor = Cursor { store: self.clone(), session, left, open: None };
        Ok(Reading { epoch, heads, cursor: super::Cursor::Mongo(Box::new(cursor)) })
    }

    /// A session whose reads all see one majority-committed moment, that of its first read.
    async fn snapshot_session(&self) -> anyhow::Result<ClientSession> {
        call(self.client.start_session().snapshot(true)).await
    }

    pub(super) async fn changes(
        &self,
        collection: &CollectionName,
        since: Revision,
        limit: usize,
    ) -> anyhow::Result<Vec<Change>> {
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        let filter = doc! { "collection": collection.as_str(), "revision": { "$gt": since } };
        self.log(filter, doc! { "revision": 1 }, limit).await
    }

    pub(super) async fn owed(&self, before: DateTime<Utc>, limit: usize) -> anyhow::Result<Vec<Change>> {
        let before = bson::DateTime::from_millis(before.timestamp_millis());
        self.log(doc! { "owed": true, "time": { "$lt": before } }, doc! { "time": 1 }, limit).await
    }

    async fn log(&self, filter: Bdoc, order: Bdoc, limit: usize) -> anyhow::Result<Vec<Change>> {
        let read = async {
            let mut rows = self.table(CHANGES).find(filter).sort(order).limit(i64::try_from(limit)?).await?;
            let mut found = Vec::new();
            while rows.advance().await? {
                found.push(change(&rows.deserialize_current()?)?);
            }
            Ok(found)
        };
        timeout(CALL, read).await.context(LATE)?
    }

    pub(super) async fn clear_owed(&self, published: &[(CollectionName, Revision)]) -> anyhow::Result<()> {
        let mut revisions = BTreeMap::<_, Vec<i64>>::new();
        for (collection, revision) in published {
            revisions.entry(collection).or_default().push(i64::try_from(*revision)?);
        }
        let once = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        let options = CollectionOptions::builder().write_concern(once).build();
        let log = self.database.collection_with_options::<Bdoc>(CHANGES, options);
        for (collection, revisions) in revisions {
            let filter = doc! { "collection": collection.as_str(), "revision": { "$in": revisions } };
            call(log.update_many(filter, doc! { "$unset": { "owed": "" } })).await?;
        }
        Ok(())
    }

    pub(super) async fn ping(&self) -> anyhow::Result<()> {
        call(self.database.run_command(doc! { "ping": 1 })).await.map(drop)
    }
}

/// Streams documents in the snapshot session that read their heads.
#[derive(Debug)]
pub(super) struct Cursor {
    store: Mongo,
    session: ClientSession,
    left: VecDeque<CollectionName>,
    open: Option<SessionCursor<Bdoc>>,
}

impl Cursor {
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        timeout(CALL, self.next_piece()).await.context(LATE)?
    }

    async fn next_piece(&mut self) -> anyhow::Result<Option<Piece>> {
        while let Some(collection) = self.left.front().cloned() {
            let table = self.store.table(collection.as_str());
            let mut rows = match self.open.take() {
                Some(rows) => rows,
                None => table.find(doc! {}).sort(doc! { "_id": 1 }).session(&mut self.session).await?,
            };
            let (mut documents, mut bytes) = (Vec::new(), 0);
            while bytes < PIECE_BYTES {
                let Some(row) = rows.next(&mut self.session).await.transpose()? else { break };
                let document = document(&row)?;
                bytes += document.json().len();
                documents.push(document);
            }
            if bytes >= PIECE_BYTES {
                self.open = Some(rows);
            } else {
                self.left.pop_front();
            }
            if !documents.is_empty() {
                return Ok(Some(Piece { collection, documents }));
            }
        }
        Ok(None)
    }
}

/// What a group is, in the language of the database.
struct WriteCommands {
    heads: Vec<(Bdoc, Bdoc)>,
    documents: Vec<Bdoc>,
    changes: Vec<Bdoc>,
}

impl WriteCommands {
    fn new(
        folded: &Folded,
        before: &BTreeMap<CollectionName, Revision>,
        write_id: &str,
        owe: bool,
    ) -> anyhow::Result<Self> {
        let mut touched = BTreeMap::<&CollectionName, BTreeSet<&DocumentId>>::new();
        let mut changes = Vec::with_capacity(folded.changes.len());
        for change in &folded.changes {
            touched.entry(&change.collection).or_default().insert(&change.id);
            changes.push(change_row(change, write_id, owe)?);
        }
        let (mut heads, mut documents) = (Vec::new(), Vec::new());
        for (collection, ids) in touched {
            let head = &folded.after.heads[collection];
            let filter = doc! { "_id": collection.as_str(), "revision": i64::try_from(before[collection])? };
            heads.push((filter, doc! { "$set": head_row(head)? }));
            let (mut updates, mut deletes) = (Vec::new(), Vec::new());
            for id in ids {
                let this = doc! { "_id": id.as_str() };
                match folded.after.documents.get(&(collection.clone(), id.clone())) {
                    // Upsert, so that a document that came and went within one group needs no rule of its own.
                    Some(held) => updates.push(doc! { "q": this, "u": document_row(held)?, "upsert": true }),
                    None => deletes.push(doc! { "q": this, "limit": 1 }),
                }
            }
            if !updates.is_empty() {
                documents.push(doc! { "update": collection.as_str(), "updates": updates });
            }
            if !deletes.is_empty() {
                documents.push(doc! { "delete": collection.as_str(), "deletes": deletes });
            }
        }
        Ok(Self { heads, documents, changes })
    }
}

fn virgin_head() -> Bdoc {
    doc! { "revision": 0_i64, "count": 0_i64, "digest": contract::Digest::default().to_string(), "lastSet": 0_i64, "oldest": 1_i64 }
}

fn head_row(head: &Head) -> anyhow::Result<Bdoc> {
    Ok(doc! {
        "revision": i64::try_from(head.revision)?,
        "count": i64::try_from(head.count)?,
        "digest": head.digest.to_string(),
        "lastSet": i64::try_from(head.last_set)?,
    })
}

fn head(row: &Bdoc, epoch: Epoch) -> anyhow::Result<Head> {
    Ok(Head {
        collection: row.get_str("_id")?.parse()?,
        epoch,
        revision: number(row, "revision")?,
        count: number(row, "count")?,
        digest: row.get_str("digest")?.to_owned().try_into()?,
        last_set: number(row, "lastSet")?,
        oldest: number(row, "oldest")?,
    })
}

fn document_row(document: &Document) -> anyhow::Result<Bdoc> {
    let config = contract::CanonicalJson::from_canonical(String::from_utf8(document.config_data().to_vec())?)?;
    Ok(doc! {
        "_id": document.id().as_str(),
        "revision": i64::try_from(document.revision())?,
        "crc": document.crc().to_string(),
        "configData": bson_text::to_bson(&config)?,
    })
}

fn document(row: &Bdoc) -> anyhow::Result<Document> {
    let id = row.get_str("_id")?;
    let read = || {
        let config = bson_text::to_text(row.get_document("configData")?)?;
        let document = Document::new(id.parse()?, number(row, "revision")?, &config);
        ensure!(
            row.get_str("crc")? == document.crc().to_string(),
            "its checksum does not hold: was it edited by hand?"
        );
        Ok(document)
    };
    read().with_context(|| format!("the stored document {id}"))
}

fn change_row(change: &Change, write_id: &str, owe: bool) -> anyhow::Result<Bdoc> {
    let mut row = doc! {
        "collection": change.collection.as_str(),
        "revision": i64::try_from(change.revision)?,
        "id": change.id.as_str(),
        "time": bson::DateTime::from_millis(change.time.timestamp_millis()),
        "writeId": write_id,
        // The record as it will be read, `configData` in its canonical spelling included.
        "change": serde_json::to_string(change)?,
    };
    if owe {
        row.insert("owed", true);
    }
    Ok(row)
}

fn change(row: &Bdoc) -> anyhow::Result<Change> {
    Ok(serde_json::from_str(row.get_str("change")?)?)
}

fn number(row: &Bdoc, key: &str) -> anyhow::Result<u64> {
    match row.get(key) {
        Some(Bson::Int64(number)) => Ok(u64::try_from(*number)?),
        other => bail!("{key} is {other:?}, not a 64-bit integer"),
    }
}

async fn options(url: &str) -> anyhow::Result<ClientOptions> {
    let mut options = ClientOptions::parse(url).await.context("the MongoDB URL")?;
    if options.read_concern.is_some() || options.write_concern.is_some() || options.selection_criteria.is_some() {
        warn!(
            "read concern, write concern and read preference of the store URL are overridden: primary, majority, journal"
        );
    }
    options.app_name.get_or_insert_with(|| "confcast-publisher".to_owned());
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    options.read_concern = Some(ReadConcern::majority());
    options.write_concern = Some(durable());
    options.server_selection_timeout = Some(Duration::from_secs(3));
    options.connect_timeout = Some(Duration::from_secs(2));
    Ok(options)
}

fn durable() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

/// One call, bounded in time. A call given up may still have happened.
async fn call<T>(action: impl IntoFuture<Output = mongodb::error::Result<T>>) -> anyhow::Result<T> {
    let answer: Result<_, tokio::time::error::Elapsed> = timeout(CALL, action.into_future()).await;
    Ok(answer.context(LATE)??)
}

enum Failure {
    /// Nothing was written, and deciding anew may succeed.
    Again(anyhow::Error),
    Final(CommitError),
}

/// A head moved between reading and writing it.
#[derive(Debug, thiserror::Error)]
#[error("another publisher wrote first")]
struct Conflict;

/// Whether trying again may help: conflicts, elections, time-outs, lost connections.
fn is_passing(error: &anyhow::Error) -> bool {
    error.is::<Conflict>()
        || error.is::<tokio::time::error::Elapsed>()
        || has_label(error, mongodb::error::TRANSIENT_TRANSACTION_ERROR)
}

fn has_label(error: &anyhow::Error, label: &str) -> bool {
    error.downcast_ref::<mongodb::error::Error>().is_some_and(|error| error.contains_label(label))
}

fn is_code(error: &anyhow::Error, code: i32) -> bool {
    use mongodb::error::{ErrorKind, WriteFailure};
    error.downcast_ref::<mongodb::error::Error>().is_some_and(|error| match &*error.kind {
        ErrorKind::Command(failed) => failed.code == code,
        ErrorKind::Write(WriteFailure::WriteError(failed)) => failed.code == code,
        _ => false,
    })
}
