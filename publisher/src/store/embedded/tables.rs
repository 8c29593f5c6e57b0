//! The tables of the file, how they are initialised, and how identity and heads are read from them.
//!
//! Every row that decides anything has a checksum over all of it, which is verified when it is read.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, ensure};
use contract::{CollectionName, Epoch, Head, Replaced, formats};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::store::{
    StoreIdentity, StoreSecret,
    embedded::connections,
    integrity::{Damage, DamagedHead, DamagedPast, text_checksum},
    past::bases::Coverage,
};

/// The rows are stored in the tree of their key, so that a list reads them in order. With pages of
/// 8 KiB a row of 1 KiB needs no overflow page, and a scan takes a quarter of the time.
///
/// `pending` is the commit time in milliseconds of each change that has to be published.
const SCHEMA: &str = "
CREATE TABLE store (
  one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, lineage INTEGER NOT NULL,
  counter INTEGER NOT NULL, secret BLOB NOT NULL, replaces TEXT NOT NULL,
  crc INTEGER NOT NULL);
CREATE TABLE heads (
  collection TEXT NOT NULL, crc INTEGER NOT NULL, head TEXT NOT NULL,
  PRIMARY KEY (collection)) WITHOUT ROWID;
CREATE TABLE documents (
  collection TEXT NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL, crc INTEGER NOT NULL,
  value BLOB NOT NULL, PRIMARY KEY (collection, id)) WITHOUT ROWID;
CREATE TABLE changes (
  collection TEXT NOT NULL, revision INTEGER NOT NULL, crc INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (collection, revision)) WITHOUT ROWID;
CREATE TABLE pending (
  collection TEXT NOT NULL, revision INTEGER NOT NULL, time INTEGER NOT NULL,
  PRIMARY KEY (collection, revision)) WITHOUT ROWID;
CREATE TABLE replicas (
  name TEXT NOT NULL, seen INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (name)) WITHOUT ROWID;
CREATE INDEX replicas_seen ON replicas (seen);
";

/// What the past needs: base records, what they cover, and named snapshots. `deleted` is 1 where the
/// record is a deletion.
const PAST: &str = "
CREATE TABLE IF NOT EXISTS bases (
  collection TEXT NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL, deleted INTEGER NOT NULL,
  crc INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (collection, id, revision)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS bases_of_documents ON bases (collection, id, revision, deleted);
CREATE TABLE IF NOT EXISTS coverage (
  collection TEXT NOT NULL, crc INTEGER NOT NULL, coverage TEXT NOT NULL,
  PRIMARY KEY (collection)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (
  name TEXT NOT NULL, crc INTEGER NOT NULL, snapshot TEXT NOT NULL,
  PRIMARY KEY (name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS changes_by_set ON changes (set_id) WHERE set_id IS NOT NULL;
";

/// The first document after an id that has base records.
pub(super) const NEXT_IN_BASES: &str = "SELECT id FROM bases INDEXED BY bases_of_documents
     WHERE collection = ?1 AND id > ?2 ORDER BY id LIMIT 1";

/// As [`document_log::NEWEST`](super::document_log::NEWEST), of the base records.
pub(super) const NEWEST_IN_BASES: &str = "SELECT id, max(revision), deleted
     FROM bases INDEXED BY bases_of_documents
     WHERE collection = ?1 AND revision > ?2 AND revision <= ?3 AND id > ?4
     GROUP BY id ORDER BY id";

/// Makes a store with a new identity in an empty file.
pub(super) fn create(file: &Path) -> anyhow::Result<()> {
    let mut connection = connections::writer(file)?;
    connection.pragma_update(None, "page_size", 8192)?;
    // It stays in the file.
    connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    // A random lineage distinguishes this store from every other one.
    let identity = StoreIdentity {
        epoch: Epoch {
            lineage: rand::random(),
            counter: 1,
        },
        secret: StoreSecret::generate(),
        replaces: Replaced::default(),
    };
    put_identity(&transaction, &identity)?;
    transaction.commit()?;
    // Closing it copies the write-ahead log into the file.
    connection.close().map_err(|(_connection, error)| error)?;
    Ok(())
}

/// Checks that this version reads the file.
pub(super) fn check_format(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    let format: Option<u64> = transaction
        .query_row("SELECT format FROM store", [], |row| row.get(0))
        .optional()?;
    let format = format.context("the table store has no row")?;
    Ok(formats::check_store(format)?)
}

/// Makes the tables of the past where they are missing: in a new file, and in one of an earlier
/// version.
pub(super) fn add_past(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    let has_sets: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM pragma_table_info('changes') WHERE name = 'set_id')",
        [],
        |row| row.get(0),
    )?;
    if !has_sets {
        // A column and not an expression, so that a write of a single document computes nothing.
        transaction.execute_batch(
            "ALTER TABLE changes ADD COLUMN set_id TEXT;
             UPDATE changes SET set_id = json_extract(record, '$.changeSet.id')
             WHERE json_valid(record) AND json_extract(record, '$.changeSet.id') IS NOT NULL;",
        )?;
    }
    Ok(transaction.execute_batch(PAST)?)
}

/// What the base records of a collection cover.
///
/// # Errors
/// [`DamagedPast::Coverage`]: to take it for a collection without any would give all of them up.
pub(super) fn coverage(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
) -> anyhow::Result<Coverage> {
    let row = transaction
        .prepare_cached("SELECT crc, coverage FROM coverage WHERE collection = ?1")?
        .query_row([collection.as_str()], |row| {
            Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?))
        })
        .optional()?;
    let Some((crc, text)) = row else {
        return Ok(Coverage::default());
    };
    let is_whole = crc == coverage_crc(collection, &text);
    let coverage = serde_json::from_str(&text).ok().filter(|_read| is_whole);
    Ok(coverage.ok_or_else(|| DamagedPast::Coverage(collection.clone()))?)
}

pub(super) fn put_coverage(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    coverage: &Coverage,
) -> anyhow::Result<()> {
    let text = serde_json::to_string(coverage)?;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO coverage (collection, crc, coverage) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![
            collection.as_str(),
            coverage_crc(collection, &text),
            text
        ])?;
    Ok(())
}

fn coverage_crc(collection: &CollectionName, text: &str) -> u32 {
    text_checksum(&format!("coverage {collection}"), text).0
}

/// Writes the heads of collections that are new, so that a head which is absent later is damage.
pub(super) fn add_heads(
    transaction: &Transaction<'_>,
    collections: &BTreeSet<CollectionName>,
) -> anyhow::Result<()> {
    let identity = identity(transaction)?;
    for collection in collections {
        let known = transaction
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM heads WHERE collection = ?1)
                 OR EXISTS (SELECT 1 FROM documents WHERE collection = ?1)
                 OR EXISTS (SELECT 1 FROM changes WHERE collection = ?1)",
            )?
            .query_row([collection.as_str()], |row| row.get::<_, bool>(0))?;
        if !known {
            put_head(transaction, &blank(collection, &identity))?;
        }
    }
    Ok(())
}

/// The identity of the store.
pub(super) fn identity(transaction: &Transaction<'_>) -> anyhow::Result<StoreIdentity> {
    let (epoch, secret, replaces, crc) = transaction
        .prepare_cached("SELECT lineage, counter, secret, replaces, crc FROM store WHERE one = 1")?
        .query_row([], |row| {
            let epoch = Epoch {
                lineage: row.get(0)?,
                counter: row.get(1)?,
            };
            let secret: Vec<u8> = row.get(2)?;
            Ok((
                epoch,
                secret,
                row.get::<_, String>(3)?,
                row.get::<_, u32>(4)?,
            ))
        })
        .context("reading the identity of the store")?;
    let identity = StoreIdentity {
        epoch,
        secret: StoreSecret::from_bytes(&secret)?,
        replaces: serde_json::from_str(&replaces)
            .context("the identity of the store is damaged: restore a backup")?,
    };
    ensure!(
        crc == identity_crc(&identity)?,
        "the identity of the store is damaged: restore a backup"
    );
    Ok(identity)
}

/// Replaces the identity of the store.
pub(super) fn put_identity(
    transaction: &Transaction<'_>,
    identity: &StoreIdentity,
) -> anyhow::Result<()> {
    transaction.execute(
        "INSERT OR REPLACE INTO store (one, format, lineage, counter, secret, replaces, crc)
         VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            formats::STORE,
            identity.epoch.lineage,
            identity.epoch.counter,
            identity.secret.as_bytes(),
            serde_json::to_string(&identity.replaces)?,
            identity_crc(identity)?,
        ],
    )?;
    Ok(())
}

fn identity_crc(identity: &StoreIdentity) -> anyhow::Result<u32> {
    let StoreIdentity {
        epoch,
        secret,
        replaces,
    } = identity;
    let replaces = serde_json::to_string(replaces)?;
    let text = format!("{epoch}\n{:?}\n{replaces}", secret.as_bytes());
    Ok(text_checksum("identity", &text).0)
}

/// The stored head of a collection, in the epoch of the store. Opening the store writes the head of
/// every collection, so an absent one is damaged.
pub(super) fn head(
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    identity: &StoreIdentity,
) -> anyhow::Result<Result<Head, DamagedHead>> {
    let damaged = |damage| DamagedHead {
        collection: collection.clone(),
        damage,
    };
    let mut statement =
        transaction.prepare_cached("SELECT crc, head FROM heads WHERE collection = ?1")?;
    let mut rows = statement.query([collection.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(Err(damaged(Damage::Missing)));
    };
    // Any column may have any type.
    let read = || -> Option<Head> {
        let crc: u32 = row.get(0).ok()?;
        let text = row.get_ref(1).ok()?.as_str().ok()?;
        let head: Head = serde_json::from_str(text).ok()?;
        (crc == head_crc(text) && head.collection == *collection).then_some(head)
    };
    Ok(match read() {
        // Both belong to the store: the row may lack the present ones.
        Some(head) => Ok(Head {
            epoch: identity.epoch,
            replaces: identity.replaces.clone(),
            ..head
        }),
        None => Err(damaged(Damage::Checksum)),
    })
}

pub(super) fn put_head(transaction: &Transaction<'_>, head: &Head) -> anyhow::Result<()> {
    let text = serde_json::to_string(head)?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO heads (collection, crc, head) VALUES (?1, ?2, ?3)")?
        .execute(params![head.collection.as_str(), head_crc(&text), text])?;
    Ok(())
}

fn head_crc(text: &str) -> u32 {
    text_checksum("head", text).0
}

/// The head of a collection without a change.
fn blank(collection: &CollectionName, identity: &StoreIdentity) -> Head {
    let StoreIdentity { epoch, secret, .. } = identity;
    Head {
        proof: Some(secret.prove(*epoch, collection, 0, None)),
        ..Head::empty(collection.clone(), *epoch)
    }
}
