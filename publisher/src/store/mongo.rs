//! The MongoDB store: nothing outside this module speaks to MongoDB. Here it is opened and asked;
//! `reading` reads much, `commit` writes, `trim` takes old changes away, `rows` and `text` are what
//! is written.
//!
//! Documents are native BSON `{_id, revision, crc, configData}` in collections named like the
//! configuration collections; `_heads`, `_changes` and `_meta` stand beside them. A group is one
//! transaction; the head documents serialise writers, whichever publisher they belong to. It needs
//! a replica set (one node is enough) and says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use contract::{Change, CollectionName, Document, DocumentId, Epoch, Head, Revision};
use mongodb::{
    Client, ClientSession, Database, IndexModel,
    bson::{self, Document as Bdoc, RawDocument, RawDocumentBuf, doc},
    options::{
        Acknowledgment, ClientOptions, CollectionOptions, IndexOptions, ReadConcern,
        ReadPreference, SelectionCriteria, WriteConcern,
    },
};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout, timeout_at},
};
use tracing::warn;

use crate::store::{PublisherPolicy, Reading, committed_heads::CommittedHeads};

mod commit;
mod fleet;
mod reading;
mod rows;
mod text;
mod trim;

pub(super) use reading::Cursor;

const HEADS: &str = "_heads";
const CHANGES: &str = "_changes";
const META: &str = "_meta";
/// `_id` of the one document in [`META`].
const STORE: &str = "store";
/// What the collections above mean.
const FORMAT: i64 = 1;

/// One call to the database.
const CALL: Duration = Duration::from_secs(3);

const LATE: &str = "MongoDB did not answer in time";

/// The open database. Cloning shares the connections.
#[derive(Debug, Clone)]
pub struct Mongo {
    client: Client,
    database: Database,
    terms: Arc<PublisherPolicy>,
    newest: Arc<CommittedHeads>,
    /// Where rows are read ahead: not on the one thread of the request that they are for.
    runtime: Handle,
}

impl Mongo {
    pub(super) async fn open(
        url: &str,
        database: &str,
        terms: Arc<PublisherPolicy>,
    ) -> anyhow::Result<Self> {
        let client = Client::with_options(options(url).await?).context("the MongoDB settings")?;
        let database = client.database(database);
        let store = Self {
            database,
            client,
            terms,
            newest: Arc::default(),
            runtime: Handle::current(),
        };
        store.require_transactions().await?;
        store.prepare().await.context("preparing the database")?;
        Ok(store)
    }

    pub(super) fn terms(&self) -> &PublisherPolicy {
        &self.terms
    }

    pub(super) fn newest(&self) -> &CommittedHeads {
        &self.newest
    }

    async fn require_transactions(&self) -> anyhow::Result<()> {
        let hello = call(self.database.run_command(doc! { "hello": 1 }))
            .await
            .context("reaching MongoDB")?;
        // A mongos has no setName but says so; a standalone has neither.
        ensure!(
            hello.contains_key("setName")
                || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid"),
            "this MongoDB is a standalone server, which has no transactions. One node is enough: start it with \
             `mongod --replSet rs0` and run `mongosh --eval 'rs.initiate()'` once"
        );
        Ok(())
    }

    /// Makes what is missing. Several publishers may do it at once.
    async fn prepare(&self) -> anyhow::Result<()> {
        let virgin = doc! { "lineage": i64::from(rand::random::<u32>()), "counter": 1_i64, "format": FORMAT };
        self.upsert(META, STORE, virgin).await?;
        let meta = call(self.table(META).find_one(doc! { "_id": STORE }))
            .await?
            .context("_meta is empty")?;
        let format = meta.get_i64("format")?;
        ensure!(
            format == FORMAT,
            "the format of the store is {format}; this version reads {FORMAT} only"
        );
        // A transaction must not have to make a collection.
        for name in self
            .terms
            .collections
            .iter()
            .map(CollectionName::as_str)
            .chain([HEADS])
        {
            if let Err(error) = call(self.database.create_collection(name)).await {
                ensure!(is_code(&error, 48), error); // 48 = NamespaceExists
            }
        }
        self.make_heads().await.context("making heads")?;
        let unique = IndexOptions::builder().unique(true).build();
        let partial = IndexOptions::builder()
            .partial_filter_expression(doc! { "owed": true })
            .build();
        let indexes = [
            IndexModel::builder()
                .keys(doc! { "collection": 1, "revision": 1 })
                .options(unique)
                .build(),
            IndexModel::builder()
                .keys(doc! { "owed": 1, "collection": 1, "revision": 1 })
                .options(partial)
                .build(),
            IndexModel::builder()
                .keys(doc! { "collection": 1, "id": 1, "revision": 1 })
                .build(),
        ];
        call(self.table(CHANGES).create_indexes(indexes)).await?;
        let seen = IndexModel::builder().keys(doc! { "seen": 1 }).build();
        call(self.table(fleet::REPLICAS).create_index(seen)).await?;
        Ok(())
    }

    async fn upsert(&self, table: &str, id: &str, value: Bdoc) -> anyhow::Result<()> {
        let table = self.table(table);
        // 11000 = DuplicateKey: another publisher was quicker.
        match call(
            table
                .update_one(doc! { "_id": id }, doc! { "$setOnInsert": value })
                .upsert(true),
        )
        .await
        {
            Err(error) if !is_code(&error, 11000) => Err(error),
            _ => Ok(()),
        }
    }

    fn table(&self, name: &str) -> mongodb::Collection<Bdoc> {
        self.database.collection(name)
    }

    /// The same, for rows that are read where they stand.
    fn raw(table: mongodb::Collection<Bdoc>) -> mongodb::Collection<RawDocumentBuf> {
        table.clone_with_type()
    }

    /// For reads inside a snapshot session or a transaction. The level has to be said here: the
    /// driver leaves one that a collection inherits as it is, and `majority` would read each
    /// time what is newest then.
    fn table_at_snapshot(&self, name: &str) -> mongodb::Collection<Bdoc> {
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .build();
        self.database.collection_with_options(name, options)
    }

    async fn epoch(&self, session: &mut ClientSession) -> anyhow::Result<Epoch> {
        let meta = self
            .table_at_snapshot(META)
            .find_one(doc! { "_id": STORE })
            .session(session)
            .await?;
        let meta =
            meta.context("_meta is empty: was the database dropped under this publisher?")?;
        Ok(Epoch {
            lineage: u32::try_from(meta.get_i64("lineage")?)?,
            counter: rows::number(&meta, "counter")?,
        })
    }

    async fn heads_in(
        &self,
        session: &mut ClientSession,
        epoch: Epoch,
        collections: impl Iterator<Item = &CollectionName>,
    ) -> anyhow::Result<Vec<Head>> {
        let names: Vec<_> = collections.map(CollectionName::as_str).collect();
        let table = self.table_at_snapshot(HEADS);
        let mut rows = table
            .find(doc! { "_id": { "$in": &names } })
            .sort(doc! { "_id": 1 })
            .session(&mut *session)
            .await?;
        let mut heads = Vec::new();
        while let Some(row) = rows.next(session).await.transpose()? {
            heads.push(rows::head(&row, epoch)?);
        }
        ensure!(
            heads.len() == names.len(),
            "_heads lacks a collection: was the database dropped under this publisher?"
        );
        Ok(heads)
    }

    pub(super) async fn heads(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<Vec<Head>> {
        let marks = self.newest.marks();
        let mut session = self.snapshot_session().await?;
        let read = async {
            let epoch = self.epoch(&mut session).await?;
            self.heads_in(&mut session, epoch, collections.iter()).await
        };
        let heads = timeout(CALL, read).await.context(LATE)??;
        if !self.newest.is_behind(&marks, &heads) {
            self.newest.note(&heads);
        }
        Ok(heads)
    }

    pub(super) async fn document(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> anyhow::Result<Option<Document>> {
        match call(Self::raw(self.table(collection.as_str())).find_one(doc! { "_id": id.as_str() }))
            .await?
        {
            Some(row) => self.held(None, collection, &row).await,
            None => Ok(None),
        }
    }

    pub(super) async fn read(
        &self,
        collections: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<Reading> {
        let mut session = self.snapshot_session().await?;
        let begin = async {
            let epoch = self.epoch(&mut session).await?;
            anyhow::Ok((
                epoch,
                self.heads_in(&mut session, epoch, collections.iter())
                    .await?,
            ))
        };
        let (epoch, heads) = timeout(CALL, begin).await.context(LATE)??;
        let cursor = Cursor::new(self.clone(), session, collections);
        Ok(Reading {
            epoch,
            heads,
            cursor: super::Cursor::Mongo(Box::new(cursor)),
        })
    }

    /// The document of a row. Where somebody edited the row by hand the log tells what was written,
    /// because the log is the truth; a row that was never written through here is no document.
    async fn held(
        &self,
        session: Option<&mut ClientSession>,
        collection: &CollectionName,
        row: &RawDocument,
    ) -> anyhow::Result<Option<Document>> {
        let damage = match rows::document(row) {
            Ok(document) => return Ok(Some(document)),
            Err(damage) => damage,
        };
        let Ok((id, revision)) = rows::place(row) else {
            warn!(
                "a row of {collection} was not written by a publisher and is passed by: {damage:#}"
            );
            return Ok(None);
        };
        warn!("{collection}/{id} is taken from the change log: {damage:#}");
        let filter = doc! { "collection": collection.as_str(), "revision": i64::try_from(revision)?, "id": id.as_str() };
        let record = match session {
            Some(session) => {
                Self::raw(self.table_at_snapshot(CHANGES))
                    .find_one(filter)
                    .session(session)
                    .await?
            }
            None => call(Self::raw(self.table(CHANGES)).find_one(filter)).await?,
        };
        let record = record.with_context(|| {
            format!(
                "the change log no longer holds revision {revision} of {collection}, which would mend it: give the row of {id} \
                 back the value that belongs to its crc (replicas still hold it)"
            )
        });
        let change = rows::change(&record.context(damage)?)?;
        let config = change
            .config_data
            .context("the log holds a deletion there")?;
        Ok(Some(Document::new(id, revision, &config)))
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
        bytes: usize,
    ) -> anyhow::Result<Vec<Change>> {
        self.log(after(collection, since), limit, bytes).await
    }

    pub(super) async fn owed(
        &self,
        collection: &CollectionName,
        since: Revision,
        fresh: Range<DateTime<Utc>>,
        limit: usize,
    ) -> anyhow::Result<Vec<Change>> {
        let mut filter = after(collection, since);
        filter.insert("owed", true);
        let [start, end] = [fresh.start, fresh.end]
            .map(|time| bson::DateTime::from_millis(time.timestamp_millis()));
        filter.insert(
            "$or",
            [
                doc! { "time": { "$lt": start } },
                doc! { "time": { "$gte": end } },
            ]
            .to_vec(),
        );
        self.log(filter, limit, usize::MAX).await
    }

    async fn log(&self, filter: Bdoc, limit: usize, bytes: usize) -> anyhow::Result<Vec<Change>> {
        let read = async {
            let order = doc! { "revision": 1 };
            let mut rows = self
                .table(CHANGES)
                .find(filter)
                .sort(order)
                .limit(i64::try_from(limit)?)
                .await?;
            let (mut found, mut taken) = (Vec::new(), 0);
            while taken < bytes && rows.advance().await? {
                taken += rows.current().as_bytes().len();
                found.push(rows::change(rows.current())?);
            }
            Ok(found)
        };
        timeout(CALL, read).await.context(LATE)?
    }

    pub(super) async fn clear_owed(
        &self,
        published: &[(CollectionName, Revision)],
    ) -> anyhow::Result<()> {
        let mut revisions = BTreeMap::<_, Vec<i64>>::new();
        for (collection, revision) in published {
            revisions
                .entry(collection)
                .or_default()
                .push(i64::try_from(*revision)?);
        }
        let once = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        let options = CollectionOptions::builder().write_concern(once).build();
        let log = self
            .database
            .collection_with_options::<Bdoc>(CHANGES, options);
        for (collection, revisions) in revisions {
            let filter =
                doc! { "collection": collection.as_str(), "revision": { "$in": revisions } };
            call(log.update_many(filter, doc! { "$unset": { "owed": "" } })).await?;
        }
        Ok(())
    }

    pub(super) async fn ping(&self) -> anyhow::Result<()> {
        call(self.database.run_command(doc! { "ping": 1 }))
            .await
            .map(drop)
    }
}

async fn options(url: &str) -> anyhow::Result<ClientOptions> {
    let mut options = ClientOptions::parse(url).await.context("the MongoDB URL")?;
    if options.read_concern.is_some()
        || options.write_concern.is_some()
        || options.selection_criteria.is_some()
    {
        warn!(
            "read concern, write concern and read preference of the store URL are overridden: primary, majority, journal"
        );
    }
    options
        .app_name
        .get_or_insert_with(|| "confcast-publisher".to_owned());
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    options.read_concern = Some(ReadConcern::majority());
    options.write_concern = Some(durable());
    options.server_selection_timeout = Some(Duration::from_secs(3));
    options.connect_timeout = Some(Duration::from_secs(2));
    Ok(options)
}

fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

/// The changes of a collection after a revision.
fn after(collection: &CollectionName, revision: Revision) -> Bdoc {
    doc! { "collection": collection.as_str(), "revision": { "$gt": i64::try_from(revision).unwrap_or(i64::MAX) } }
}

/// One call, bounded in time. A call given up may still have happened.
async fn call<T>(action: impl IntoFuture<Output = mongodb::error::Result<T>>) -> anyhow::Result<T> {
    call_until(Instant::now() + CALL, action).await
}

/// One call, given up at a deadline.
async fn call_until<T>(
    deadline: Instant,
    action: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> anyhow::Result<T> {
    let answer: Result<_, tokio::time::error::Elapsed> =
        timeout_at(deadline, action.into_future()).await;
    Ok(answer.context(LATE)??)
}

fn has_label(error: &anyhow::Error, label: &str) -> bool {
    error
        .downcast_ref::<mongodb::error::Error>()
        .is_some_and(|error| error.contains_label(label))
}

fn is_code(error: &anyhow::Error, code: i32) -> bool {
    use mongodb::error::{ErrorKind, WriteFailure};
    error
        .downcast_ref::<mongodb::error::Error>()
        .is_some_and(|error| match &*error.kind {
            ErrorKind::Command(failed) => failed.code == code,
            ErrorKind::Write(WriteFailure::WriteError(failed)) => failed.code == code,
            _ => false,
        })
}
