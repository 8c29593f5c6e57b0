//! The audit log in the embedded store: one chain, each record a row of the transaction that it is
//! about.

use std::sync::OnceLock;

use contract::audit::{AuditCursor, ChainId, Entry, Tip};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::store::{
    audit::{AuditChain, AuditRow, AuditRows, ChainEnd, started},
    embedded::{
        Embedded,
        connections::{Durability, End},
    },
};

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS audit (
  chain TEXT NOT NULL, sequence INTEGER NOT NULL, total INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (chain, sequence)) WITHOUT ROWID;
";

/// The name of this process in the log; not set while none is kept.
pub(super) type AuditPublisher = OnceLock<String>;

/// Makes the table where it is missing: in a new file, and in one of an earlier version.
pub(super) fn create_table(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    Ok(transaction.execute_batch(TABLE)?)
}

impl Embedded {
    pub(in crate::store) fn enable_audit(&self, publisher: &str) {
        self.0.audit.get_or_init(|| publisher.to_owned());
    }

    /// Writes entries as part of a transaction, if a log is kept.
    pub(super) fn audit(
        &self,
        transaction: &Transaction<'_>,
        entries: impl FnOnce() -> Vec<Entry>,
    ) -> anyhow::Result<()> {
        match self.0.audit.get() {
            Some(publisher) => append(transaction, publisher, &entries()),
            None => Ok(()),
        }
    }

    pub(in crate::store) async fn append_audit(&self, entries: Vec<Entry>) -> anyhow::Result<()> {
        let written = self.write(Durability::Synced, move |store, transaction| {
            store.audit(transaction, || entries)?;
            Ok(End::Commit(()))
        });
        Ok(written.await?)
    }

    pub(in crate::store) async fn audit_chains(&self) -> anyhow::Result<Vec<AuditChain>> {
        self.read(|_store, transaction| chains(transaction)).await
    }

    pub(in crate::store) async fn audit_rows(
        &self,
        chain: Option<ChainId>,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> anyhow::Result<AuditRows> {
        self.read(move |_store, transaction| {
            let (from, sequence) = match (&after, &chain) {
                (Some(after), _any) => (after.chain.as_str(), after.sequence),
                (None, Some(chain)) => (chain.as_str(), 0),
                (None, None) => ("", 0),
            };
            let (first, last) = match &chain {
                Some(chain) => (chain.as_str(), chain.as_str()),
                // No chain is after it.
                None => ("", "~"),
            };
            let mut statement = transaction.prepare_cached(
                "SELECT chain, sequence, total, record FROM audit
                 WHERE (chain, sequence) > (?1, ?2) AND chain >= ?3 AND chain <= ?4
                 ORDER BY chain, sequence",
            )?;
            let mut found = statement.query(params![from, sequence, first, last])?;
            let mut rows = AuditRows::default();
            while let Some(found) = found.next()? {
                if row(found).is_some_and(|row| !rows.take(row, limit)) {
                    return Ok(rows);
                }
            }
            rows.is_end = true;
            Ok(rows)
        })
        .await
    }

    pub(in crate::store) async fn remove_audit(
        &self,
        removed: Tip,
        entry: Entry,
    ) -> anyhow::Result<()> {
        let written = self.write(Durability::Synced, move |store, transaction| {
            // Before the rows go, so that the chain is continued.
            store.audit(transaction, || vec![entry])?;
            transaction
                .prepare_cached("DELETE FROM audit WHERE chain = ?1 AND sequence <= ?2")?
                .execute(params![removed.chain.as_str(), removed.sequence])?;
            Ok(End::Commit(()))
        });
        Ok(written.await?)
    }
}

/// Appends to the newest chain, or begins one: in a new store, and where the newest record is not what
/// a publisher wrote. Without entries a process says that it has started.
fn append(transaction: &Transaction<'_>, publisher: &str, entries: &[Entry]) -> anyhow::Result<()> {
    let newest = transaction
        .prepare_cached(
            "SELECT chain, sequence, total, record FROM audit
             ORDER BY chain DESC, sequence DESC LIMIT 1",
        )?
        .query_row([], |found| Ok(row(found)))
        .optional()?
        .flatten();
    let mut rows = Vec::with_capacity(entries.len());
    let mut end = match newest.as_ref().and_then(ChainEnd::after) {
        Some(mut end) => {
            if entries.is_empty() {
                rows.push(end.append(&started(publisher, &[]))?);
            }
            end
        }
        None => {
            let mut end = ChainEnd::begin()?;
            rows.push(end.append(&started(publisher, &chains(transaction)?))?);
            end
        }
    };
    for entry in entries {
        rows.push(end.append(entry)?);
    }
    let mut statement = transaction.prepare_cached(
        "INSERT INTO audit (chain, sequence, total, record) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for row in rows {
        statement.execute(params![
            row.chain.as_str(),
            row.sequence,
            row.total,
            row.text
        ])?;
    }
    Ok(())
}

/// Two rows for each chain, found by the key.
fn chains(transaction: &Transaction<'_>) -> anyhow::Result<Vec<AuditChain>> {
    let mut next = transaction.prepare_cached(
        "SELECT chain, sequence, total, record FROM audit WHERE chain > ?1
         ORDER BY chain, sequence LIMIT 1",
    )?;
    let mut last = transaction.prepare_cached(
        "SELECT chain, sequence, total, record FROM audit WHERE chain = ?1
         ORDER BY sequence DESC LIMIT 1",
    )?;
    let mut chains = Vec::new();
    let mut name = String::new();
    loop {
        let found = next.query_row([&name], |found| {
            Ok((found.get::<_, String>(0)?, row(found)))
        });
        let Some((chain, first)) = found.optional()? else {
            return Ok(chains);
        };
        let newest = last.query_row([&chain], |found| Ok(row(found)))?;
        if let (Some(first), Some(last)) = (first, newest) {
            chains.push(AuditChain { first, last });
        }
        name = chain;
    }
}

/// A row `chain, sequence, total, record`; `None` for one that is in no chain, which other means wrote.
fn row(row: &Row<'_>) -> Option<AuditRow> {
    Some(AuditRow {
        chain: row.get_ref(0).ok()?.as_str().ok()?.parse().ok()?,
        sequence: row.get(1).ok()?,
        total: row.get(2).unwrap_or_default(),
        text: String::from_utf8_lossy(row.get_ref(3).ok()?.as_bytes().unwrap_or_default()).into(),
    })
}
