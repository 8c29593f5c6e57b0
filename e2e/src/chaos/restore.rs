//! A dump of the whole database and its restore, as an operator does it: publishers keep running
//! and are not notified.
//!
//! It works collection by collection with the driver, so for a short time documents and heads do
//! not match.

use anyhow::Context;
use futures_util::TryStreamExt;
use mongodb::{
    Database,
    bson::{Document, doc},
    error::ErrorKind,
    results::InsertManyResult,
};

use super::{cluster::DATABASE, component::Program};

/// MongoDB's `DuplicateKey`.
const DUPLICATE: i32 = 11000;
/// The collection that publishers write without any request.
const FLEET: &str = "_replicas";
/// The collection that a publisher initialises when it starts and finds it empty.
const META: &str = "_meta";
/// The row of it that says which store this is. It has others, in no order.
const STORE: &str = "store";
/// Documents per insert.
const PIECE: usize = 1_000;

/// All documents of all collections at one moment.
#[derive(Debug)]
pub struct Dump {
    database: Database,
    collections: Vec<(String, Vec<Document>)>,
}

impl Dump {
    /// Takes a dump.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take(program: &Program) -> anyhow::Result<Self> {
        let Program::Mongod(mongod) = program else {
            anyhow::bail!("not a database")
        };
        let database = mongod.database(DATABASE).await?;
        let mut session = database.client().start_session().snapshot(true).await?;
        let mut collections = Vec::new();
        let mut names = database.list_collection_names().await?;
        names.sort();
        for name in names {
            let table = database.collection::<Document>(&name);
            let mut cursor = table.find(Document::new()).session(&mut session).await?;
            let documents = cursor
                .stream(&mut session)
                .try_collect()
                .await
                .with_context(|| format!("dumping {name}"))?;
            collections.push((name, documents));
        }
        Ok(Self {
            database,
            collections,
        })
    }

    /// The epoch counter in the database now.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn counter_now(&self) -> anyhow::Result<u64> {
        let meta = self
            .database
            .collection::<Document>(META)
            .find_one(doc! { "_id": STORE })
            .await?;
        Ok(meta
            .context("_meta has no row of the store")?
            .get_i64("counter")?
            .try_into()?)
    }

    /// Restores everything.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn restore(&self) -> anyhow::Result<()> {
        for (name, documents) in &self.collections {
            let table = self.database.collection::<Document>(name);
            table.delete_many(Document::new()).await?;
            if name == META {
                // A publisher that starts meanwhile writes rows of it. Those of the backup replace them.
                for row in documents {
                    let key = doc! { "_id": row.get("_id").context("a row without a key")? };
                    table.replace_one(key, row).upsert(true).await?;
                }
                continue;
            }
            for piece in documents.chunks(PIECE) {
                let put = table.insert_many(piece).ordered(false).await;
                let put = if name == FLEET {
                    put.or_else(there_already)
                } else {
                    put
                };
                put.with_context(|| format!("restoring {name}"))?;
            }
        }
        Ok(())
    }
}

/// Running publishers write rows of the replica list meanwhile. Theirs are newer.
fn there_already(error: mongodb::error::Error) -> mongodb::error::Result<InsertManyResult> {
    let duplicates = match &*error.kind {
        ErrorKind::InsertMany(failed) => {
            failed
                .write_errors
                .iter()
                .flatten()
                .all(|error| error.code == DUPLICATE)
                && failed.write_concern_error.is_none()
        }
        _ => false,
    };
    if duplicates {
        Ok(InsertManyResult::default())
    } else {
        Err(error)
    }
}
