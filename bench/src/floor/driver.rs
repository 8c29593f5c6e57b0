//! The MongoDB driver alone: the transaction of a write, the bare write of the source document, and
//! a bare read. It never decides, checks or converts anything: it writes rows that it read from the
//! database of a publisher.

use std::time::Duration;

use anyhow::Context;
use futures_util::TryStreamExt;
use mongodb::{
    Client, ClientSession, Collection, Database,
    bson::{Bson, DateTime, Document, RawDocumentBuf, doc, serialize_to_bson},
    error::TRANSIENT_TRANSACTION_ERROR,
    options::{
        Acknowledgment, ClientOptions, CollectionOptions, ReadConcern, ReadPreference,
        SelectionCriteria, WriteConcern,
    },
};
use serde_json::Value;
use tokio::time::sleep;

const HEADS: &str = "_heads";
const CHANGES: &str = "_changes";
const META: &str = "_meta";

/// A client with the concerns and the server selection of a publisher, and one connection for each
/// client of any measure: the default limit of the driver would slow the floor down.
pub(crate) async fn client(url: &str) -> anyhow::Result<Client> {
    let mut options = ClientOptions::parse(url).await?;
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    options.read_concern = Some(ReadConcern::majority());
    options.write_concern = Some(durable());
    options.max_pool_size = Some(100);
    Ok(Client::with_options(options)?)
}

/// The write of the source document: one `replaceOne`, acknowledged by the majority and the
/// journal.
///
/// # Errors
/// When the server refuses the write.
pub(crate) async fn replace(
    table: &Collection<Document>,
    id: &str,
    value: &Value,
) -> anyhow::Result<()> {
    let row = doc! { "_id": id, "configData": serialize_to_bson(value)? };
    table
        .replace_one(doc! { "_id": id }, row)
        .upsert(true)
        .await?;
    Ok(())
}

/// Reads every row of a collection without decoding it. Returns the number of rows.
pub(crate) async fn read_all(database: &Database, collection: &str) -> anyhow::Result<usize> {
    let mut rows = database
        .collection::<RawDocumentBuf>(collection)
        .find(doc! {})
        .await?;
    let mut read = 0;
    while rows.advance().await? {
        read += 1;
    }
    Ok(read)
}

/// The work of a publisher for one write, without the publisher: the same commands in the same
/// transaction, on a database with the same rows and indexes.
#[derive(Debug)]
pub(crate) struct Transactions {
    client: Client,
    database: Database,
    /// One session for all writes, which is the minimum. A publisher takes one from the pool of the
    /// driver for each write.
    session: ClientSession,
    collection: String,
    /// A change record of the publisher, as long as its others.
    change: Document,
}

impl Transactions {
    /// Prepares a copy of a publisher's database in the same server, with the rows that the
    /// publisher wrote for the collection.
    pub(crate) async fn beside(
        url: &str,
        publishers: &str,
        copy: &str,
        collection: &str,
    ) -> anyhow::Result<Self> {
        let client = client(url).await?;
        let from = client.database(publishers);
        let database = client.database(copy);
        for name in [META, HEADS, CHANGES, collection] {
            let rows: Vec<Document> = from
                .collection(name)
                .find(doc! {})
                .await?
                .try_collect()
                .await?;
            database
                .collection(name)
                .insert_many(rows)
                .await
                .with_context(|| format!("copying {name}"))?;
        }
        let indexes = from.collection::<Document>(CHANGES).list_indexes().await?;
        let indexes: Vec<_> = indexes
            .try_filter(|index| std::future::ready(!index.keys.contains_key("_id")))
            .try_collect()
            .await?;
        database
            .collection::<Document>(CHANGES)
            .create_indexes(indexes)
            .await?;
        let log = database.collection(CHANGES);
        let change = log.find_one(doc! { "collection": collection });
        let change = change
            .sort(doc! { "revision": -1 })
            .await?
            .context("the publisher wrote no change")?;
        Ok(Self {
            session: client.start_session().await?,
            client,
            database,
            collection: collection.to_owned(),
            change,
        })
    }

    /// The same, with a session of its own.
    pub(crate) async fn another(&self) -> anyhow::Result<Self> {
        Ok(Self {
            session: self.client.start_session().await?,
            client: self.client.clone(),
            database: self.database.clone(),
            collection: self.collection.clone(),
            change: self.change.clone(),
        })
    }

    /// Writes an existing document while others write the same head: a transaction that met another
    /// one is aborted and made again, after a pause as that of a publisher.
    pub(crate) async fn write_beside(&mut self, id: &str, value: &Value) -> anyhow::Result<()> {
        loop {
            let Err(error) = self.write(id, value).await else {
                return Ok(());
            };
            let met = error
                .downcast_ref::<mongodb::error::Error>()
                .is_some_and(|error| error.contains_label(TRANSIENT_TRANSACTION_ERROR));
            if !met {
                return Err(error);
            }
            // The server may have aborted it already.
            drop(self.session.abort_transaction().await);
            sleep(Duration::from_millis(rand::random_range(1..=50))).await;
        }
    }

    /// Writes an existing document.
    pub(crate) async fn write(&mut self, id: &str, value: &Value) -> anyhow::Result<()> {
        let this = doc! { "_id": { "$in": [id] } };
        let heads = doc! { "_id": { "$in": [&self.collection] } };
        let [meta_table, heads_table, documents] =
            [META, HEADS, self.collection.as_str()].map(|name| self.at_snapshot(name));
        let session = &mut self.session;
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(durable())
            .await?;
        meta_table
            .find_one(doc! { "_id": "store" })
            .session(&mut *session)
            .await?
            .context("no epoch")?;
        let mut found = heads_table
            .find(heads)
            .sort(doc! { "_id": 1 })
            .session(&mut *session)
            .await?;
        let mut head = found
            .next(&mut *session)
            .await
            .transpose()?
            .context("no head")?;
        let mut found = documents.find(this).session(&mut *session).await?;
        let mut row = found
            .next(&mut *session)
            .await
            .transpose()?
            .context("no document")?;

        let before: i64 = head.get_i64("revision")?;
        let revision = Bson::Int64(before + 1);
        for member in ["_id", "oldest"] {
            head.remove(member);
        }
        head.insert("revision", revision.clone());
        let filter = doc! { "_id": &self.collection, "revision": before };
        let table: Collection<Document> = self.database.collection(HEADS);
        let done = table
            .update_one(filter, doc! { "$set": head })
            .session(&mut *session)
            .await?;
        anyhow::ensure!(done.matched_count == 1, "another writer changed the head");
        row.insert("revision", revision.clone());
        row.insert("configData", serialize_to_bson(value)?);
        let update = doc! { "q": { "_id": id }, "u": row, "upsert": true };
        self.database
            .run_command(doc! { "update": &self.collection, "updates": [update] })
            .session(&mut *session)
            .await?;
        let mut change = self.change.clone();
        change.remove("_id");
        change.insert("revision", revision);
        change.insert("id", id);
        change.insert("time", DateTime::now());
        // A publisher marks each event that it still has to send.
        change.insert("pending", true);
        let log: Collection<Document> = self.database.collection(CHANGES);
        log.insert_many([change]).session(&mut *session).await?;
        session.commit_transaction().await?;
        Ok(())
    }

    /// The table of bare writes in the same server.
    pub(crate) fn bare(&self) -> Collection<Document> {
        self.database.collection("Bare")
    }

    fn at_snapshot(&self, name: &str) -> Collection<Document> {
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .build();
        self.database.collection_with_options(name, options)
    }
}

fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}
