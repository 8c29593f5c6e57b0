//! The tables of the file, how they are initialised, and how epoch and heads are read from them.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use contract::{CollectionName, Document, DocumentId, Epoch, Head, Revision};
use redb::{Database, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use crate::store::{StoreIdentity, StoreSecret};

/// The numbers `lineage`, `counter` and `format`.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The secret of the store, under the key `secret`.
pub(super) const SECRET: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("secret");
/// Head as JSON, by collection.
pub(super) const HEADS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("heads");
/// Revision and canonical JSON, by collection and id.
pub(super) const DOCUMENTS: TableDefinition<'_, (&str, &str), (u64, &str)> =
    TableDefinition::new("documents");
/// Change as JSON, by collection and revision.
pub(super) const CHANGES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("changes");
/// Commit time in milliseconds of each change that has to be published, by collection and revision.
pub(super) const PENDING: TableDefinition<'_, (&str, u64), i64> = TableDefinition::new("pending");
/// Time of the last check-in in milliseconds, and the row as JSON, by name of the replica.
pub(super) const REPLICAS: TableDefinition<'_, &str, (i64, &[u8])> =
    TableDefinition::new("replicas");

/// The version of the tables above.
const FORMAT: u64 = 3;

/// Checks the format of a file, or initialises an empty one.
pub(super) fn prepare(database: &Database) -> anyhow::Result<()> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get("format")?.map(|format| format.value());
        match format {
            Some(format) => ensure!(
                format == FORMAT,
                "the format of the store is {format}; this version reads only {FORMAT}"
            ),
            // A random lineage distinguishes this store from every other one.
            None => {
                meta.insert("format", FORMAT)?;
                meta.insert("lineage", u64::from(rand::random::<u32>()))?;
                meta.insert("counter", 1)?;
                transaction
                    .open_table(SECRET)?
                    .insert("secret", StoreSecret::generate().as_bytes().as_slice())?;
            }
        }
        // A read transaction cannot open a table that was never created.
        transaction.open_table(HEADS)?;
        transaction.open_table(DOCUMENTS)?;
        transaction.open_table(CHANGES)?;
        transaction.open_table(PENDING)?;
        transaction.open_table(REPLICAS)?;
    }
    Ok(transaction.commit()?)
}

/// The epoch of the store.
pub(super) fn epoch(meta: &impl ReadableTable<&'static str, u64>) -> anyhow::Result<Epoch> {
    Ok(Epoch {
        lineage: u32::try_from(number(meta, "lineage")?)?,
        counter: number(meta, "counter")?,
    })
}

/// Epoch and secret of the store, in a transaction that writes.
pub(super) fn identity_in(transaction: &WriteTransaction) -> anyhow::Result<StoreIdentity> {
    identity(
        &transaction.open_table(META)?,
        &transaction.open_table(SECRET)?,
    )
}

/// Epoch and secret of the store.
pub(super) fn identity(
    meta: &impl ReadableTable<&'static str, u64>,
    secret: &impl ReadableTable<&'static str, &'static [u8]>,
) -> anyhow::Result<StoreIdentity> {
    let bytes = secret.get("secret")?.context("the table secret is empty")?;
    Ok(StoreIdentity {
        epoch: epoch(meta)?,
        secret: StoreSecret::from_bytes(bytes.value())?,
    })
}

fn number(meta: &impl ReadableTable<&'static str, u64>, key: &'static str) -> anyhow::Result<u64> {
    let number = meta
        .get(key)?
        .with_context(|| format!("the table meta has no {key}"))?;
    Ok(number.value())
}

/// The head of a collection in the epoch of the store; an empty one if it has no change yet.
pub(super) fn head(
    heads: &impl ReadableTable<&'static str, &'static [u8]>,
    collection: &CollectionName,
    identity: &StoreIdentity,
) -> anyhow::Result<Head> {
    let StoreIdentity { epoch, secret } = identity;
    match heads.get(collection.as_str())? {
        // The row may lack the present epoch only in a file that was edited by other means.
        Some(head) => Ok(Head {
            epoch: *epoch,
            ..serde_json::from_slice(head.value())?
        }),
        // No change was committed, which is true of every blank collection: nothing is stored.
        None => Ok(Head {
            proof: Some(secret.prove(*epoch, collection, 0, None)),
            ..Head::empty(collection.clone(), *epoch)
        }),
    }
}

/// The epoch, and the heads of some collections, ordered by name.
pub(super) fn heads(
    transaction: &ReadTransaction,
    collections: &BTreeSet<CollectionName>,
) -> anyhow::Result<(Epoch, Vec<Head>)> {
    let identity = identity(
        &transaction.open_table(META)?,
        &transaction.open_table(SECRET)?,
    )?;
    let heads = transaction.open_table(HEADS)?;
    let heads = collections
        .iter()
        .map(|name| head(&heads, name, &identity))
        .collect::<anyhow::Result<_>>()?;
    Ok((identity.epoch, heads))
}

/// The document of a row in [`DOCUMENTS`].
pub(super) fn document(id: DocumentId, (revision, text): (Revision, &str)) -> Document {
    Document::from_canonical(id, revision, text)
}

/// The keys of [`CHANGES`] and [`PENDING`] in a collection after a revision.
pub(super) fn after(
    collection: &CollectionName,
    revision: Revision,
) -> std::ops::RangeInclusive<(&str, u64)> {
    (collection.as_str(), revision.saturating_add(1))..=(collection.as_str(), u64::MAX)
}
