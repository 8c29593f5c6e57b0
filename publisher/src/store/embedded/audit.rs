//! The audit log in the embedded store: one chain, each record a row of the transaction that it is
//! about.

use std::sync::OnceLock;

use contract::audit::{AuditCursor, ChainId, Entry, Tip};
use rusqlite::{OptionalExtension, Row, ToSql, Transaction, params};
use service::runtime::log_rate::LogRate;
use tracing::warn;

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
            // Other programs may have written anything into the columns. All of it is met: no number is
            // before the smallest, and each text is before a blob.
            let sequence = |after: &AuditCursor| i64::try_from(after.sequence).unwrap_or(i64::MAX);
            let (from, sequence) = match (&after, &chain) {
                (Some(after), _any) => (after.chain.as_str(), sequence(after)),
                (None, Some(chain)) => (chain.as_str(), i64::MIN),
                (None, None) => ("", i64::MIN),
            };
            let all: &[u8] = &[u8::MAX; 64];
            let (first, last): (&str, &dyn ToSql) = match &chain {
                Some(chain) => (chain.as_str(), &chain.as_str()),
                None => ("", &all),
            };
            let mut statement = transaction.prepare_cached(
                "SELECT chain, sequence, total, record FROM audit
                 WHERE (chain, sequence) > (?1, ?2) AND chain >= ?3 AND chain <= ?4
                 ORDER BY chain, sequence",
            )?;
            let mut found = statement.query(params![from, sequence, first, last])?;
            let mut rows = AuditRows::default();
            while let Some(found) = found.next()? {
                match row(found) {
                    Some(row) => {
                        if !rows.take(row, limit) {
                            return Ok(rows);
                        }
                    }
                    None => rows.note_damaged(|| columns(found)),
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

/// Appends to the newest chain that a publisher wrote the end of, or begins one: in a new store, and
/// where there is none. Without entries a process says that it has started.
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
    let (end, reason) = match newest.as_ref().and_then(ChainEnd::after) {
        Some(end) => (Some(end), None),
        None => older_end(transaction)?,
    };
    let mut end = match end {
        Some(mut end) => {
            if entries.is_empty() {
                rows.push(end.append(&started(publisher, &[], None))?);
            }
            end
        }
        None => {
            let mut end = ChainEnd::begin()?;
            let chains = chains(transaction)?;
            rows.push(end.append(&started(publisher, &chains, reason))?);
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

/// The end of the newest chain that can be continued, where the newest row of all cannot. Without one,
/// the reason why another chain begins; none in an empty log.
fn older_end(transaction: &Transaction<'_>) -> anyhow::Result<(Option<ChainEnd>, Option<String>)> {
    static WARNINGS: LogRate = LogRate::new();
    let newest = transaction
        .prepare_cached("SELECT * FROM audit ORDER BY chain DESC, sequence DESC LIMIT 1")?
        .query_row([], |found| {
            let place =
                row(found).map(|row| format!("row {} of chain {}", row.sequence, row.chain));
            Ok(place.unwrap_or_else(|| "a row that is in no chain".to_owned()))
        })
        .optional()?;
    let Some(newest) = newest else {
        return Ok((None, None));
    };
    let chains = chains(transaction)?;
    let end = chains
        .iter()
        .rev()
        .find_map(|chain| ChainEnd::after(&chain.last));
    let reason = format!("{newest} is not what a publisher wrote");
    if let Some(left_out) = WARNINGS.due() {
        let next = if end.is_some() {
            "the newest chain that is whole at its end is continued"
        } else {
            "another chain begins"
        };
        warn!(
            "the end of the audit log is damaged, because {reason}: {next}; `confcast audit verify` \
             shows what is damaged{left_out}"
        );
    }
    Ok((end, Some(reason)))
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
            let chain = found.get_ref(0)?.as_str().ok().map(str::to_owned);
            Ok((chain, row(found)))
        });
        // What is no text is in no chain, and after all that are.
        let Some((Some(chain), first)) = found.optional()? else {
            return Ok(chains);
        };
        let newest = last.query_row([&chain], |found| Ok(row(found)))?;
        if let (Some(first), Some(last)) = (first, newest) {
            chains.push(AuditChain { first, last });
        }
        name = chain;
    }
}

/// The columns of a row that is in no chain, as text.
fn columns(row: &Row<'_>) -> String {
    const LONGEST: usize = 500;
    let column = |index| row.get_ref(index).map(|value| format!("{value:?}"));
    let columns = (0..4).map(|index| column(index).unwrap_or_default());
    let columns = columns.collect::<Vec<_>>().join(", ");
    columns.chars().take(LONGEST).collect()
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
