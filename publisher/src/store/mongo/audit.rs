//! The audit log in MongoDB: a chain for each publisher process.
//!
//! A process holds the end of its chain in memory, so that no record costs a read. While a transaction
//! runs that appends to it the end is taken out, and put back when the outcome is certain; otherwise the
//! next record begins a new chain, which names the old one as far as it was committed. A record of the
//! old chain that is committed later is chained all the same.

use std::sync::{self, OnceLock, PoisonError};

use anyhow::{Context, ensure};
use contract::{
    Epoch,
    audit::{AuditCursor, ChainId, Entry, Tip},
};
use futures_util::TryStreamExt;
use mongodb::{
    ClientSession, IndexModel,
    bson::{Bson, Document as Bdoc, doc},
    options::{Hint, IndexOptions},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};
use tracing::info;

use crate::store::{
    audit::{AuditChain, AuditRow, AuditRows, ChainEnd, started},
    mongo::{CALL_TIMEOUT, Mongo, TIMED_OUT, call, transaction::in_transaction},
};

/// One row per record: `{chain, sequence, total, record}`.
pub(super) const AUDIT: &str = "_audit";

/// Time limit of a search for the ends of all chains: it reads the index once.
const CHAINS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// What this process has of the log.
#[derive(Debug, Default)]
pub(super) struct AuditState {
    /// Its name in the log; not set while none is kept.
    publisher: OnceLock<String>,
    /// The end of its chain; `None` while it has none, or it is not certain.
    end: Mutex<Option<ChainEnd>>,
    /// The epoch in which the database was seen to have that end. After a restore it may be gone; a new
    /// epoch is declared then.
    confirmed: sync::Mutex<Option<Epoch>>,
}

/// The chain of this process for one transaction. Others wait for it.
pub(super) struct OpenChain<'a> {
    slot: MutexGuard<'a, Option<ChainEnd>>,
    end: ChainEnd,
    /// The first record of the chain, until it is committed.
    start: Option<Entry>,
}

impl OpenChain<'_> {
    /// The rows of a transaction that is begun for the first time, or again.
    fn rows(&self, entries: &[Entry]) -> anyhow::Result<(Vec<Bdoc>, ChainEnd)> {
        let mut end = self.end.clone();
        let mut rows = Vec::with_capacity(entries.len() + 1);
        for entry in self.start.iter().chain(entries) {
            rows.push(stored(&end.append(entry)?)?);
        }
        Ok((rows, end))
    }

    /// The transaction is certain to be over, and the chain ends like this.
    pub(super) fn close(mut self, end: Option<ChainEnd>) {
        // Nothing was written of a new chain: the next record begins it.
        let unchanged = || self.start.is_none().then_some(self.end.clone());
        let end = end.or_else(unchanged);
        *self.slot = end;
    }
}

impl Mongo {
    pub(in crate::store) fn enable_audit(&self, publisher: &str) {
        self.audit.publisher.get_or_init(|| publisher.to_owned());
    }

    pub(super) async fn create_audit_index(&self) -> anyhow::Result<()> {
        let position = IndexModel::builder()
            .keys(doc! { "chain": 1, "sequence": 1 })
            .options(IndexOptions::builder().unique(true).build())
            .build();
        call(self.table(AUDIT).create_index(position)).await?;
        Ok(())
    }

    /// The chain of this process, if a log is kept. It is dropped without [`OpenChain::close`] when the
    /// outcome of the transaction is not certain.
    pub(super) async fn open_chain(&self) -> anyhow::Result<Option<OpenChain<'_>>> {
        let Some(publisher) = self.audit.publisher.get() else {
            return Ok(None);
        };
        // A commit whose outcome is being determined may keep it for longer than a request waits.
        let slot = timeout(CALL_TIMEOUT, self.audit.end.lock()).await;
        let mut slot = slot.context("waiting for the end of the audit chain")?;
        let (end, start) = match slot.take() {
            Some(end) => (end, None),
            None => {
                let chains = self.audit_chains().await.context("reading the audit log")?;
                let end = ChainEnd::begin()?;
                info!(
                    publisher,
                    "this publisher begins an audit chain: it has none yet, or does not know for \
                     certain how its last one ends"
                );
                (end, Some(started(publisher, &chains, None)))
            }
        };
        Ok(Some(OpenChain { slot, end, start }))
    }

    /// Writes entries in a transaction; the end of the chain when it is committed.
    ///
    /// `epoch` is that of the store in this transaction, where it was read. In the same epoch as before
    /// the end of the chain is there; else it is looked for.
    pub(super) async fn audit(
        &self,
        session: &mut ClientSession,
        chain: &OpenChain<'_>,
        entries: &[Entry],
        epoch: Option<Epoch>,
    ) -> anyhow::Result<ChainEnd> {
        self.confirm_end(session, chain, epoch).await?;
        self.append_to(session, chain, entries).await
    }

    /// Looks for the end of the chain, where it may be gone.
    async fn confirm_end(
        &self,
        session: &mut ClientSession,
        chain: &OpenChain<'_>,
        epoch: Option<Epoch>,
    ) -> anyhow::Result<()> {
        if epoch.is_none() || epoch != *self.confirmed_epoch() {
            if let (None, Some(tip)) = (&chain.start, chain.end.last()) {
                ensure!(self.has_record(session, tip).await?, ChainTakenError);
            }
            *self.confirmed_epoch() = epoch;
        }
        Ok(())
    }

    async fn append_to(
        &self,
        session: &mut ClientSession,
        chain: &OpenChain<'_>,
        entries: &[Entry],
    ) -> anyhow::Result<ChainEnd> {
        let (rows, end) = chain.rows(entries)?;
        if rows.is_empty() {
            return Ok(end);
        }
        let answer = self
            .database
            .run_command(doc! { "insert": AUDIT, "documents": rows })
            .session(session)
            .await
            .context("writing the audit records")?;
        ensure!(!answer.contains_key("writeErrors"), ChainTakenError);
        Ok(end)
    }

    fn confirmed_epoch(&self) -> sync::MutexGuard<'_, Option<Epoch>> {
        let confirmed = &self.audit.confirmed;
        confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn has_record(&self, session: &mut ClientSession, tip: &Tip) -> anyhow::Result<bool> {
        let position = doc! {
            "chain": tip.chain.as_str(),
            "sequence": i64::try_from(tip.sequence)?,
        };
        let rows = self.table_at_snapshot(AUDIT);
        let found = rows.find_one(position).session(session).await?;
        Ok(found.is_some())
    }

    pub(in crate::store) async fn append_audit(&self, entries: &[Entry]) -> anyhow::Result<()> {
        let mut is_again = false;
        loop {
            let Some(chain) = self.open_chain().await? else {
                return Ok(());
            };
            let end: anyhow::Result<ChainEnd> = in_transaction!(self, |session| {
                self.audit(session, &chain, entries, None).await
            });
            match end {
                Ok(end) => {
                    chain.close(Some(end));
                    return Ok(());
                }
                // The chain was dropped: the next attempt begins another one.
                Err(error) if error.is::<ChainTakenError>() && !is_again => is_again = true,
                Err(error) => return Err(error),
            }
        }
    }

    pub(in crate::store) async fn remove_audit(
        &self,
        removed: &Tip,
        entry: &Entry,
    ) -> anyhow::Result<()> {
        let Some(chain) = self.open_chain().await? else {
            return Ok(());
        };
        let filter = doc! {
            "chain": removed.chain.as_str(),
            "sequence": { "$lte": i64::try_from(removed.sequence)? },
        };
        let entries = std::slice::from_ref(entry);
        let end: anyhow::Result<Option<ChainEnd>> = in_transaction!(self, |session| {
            // Before the removal, which may take the end of this chain as well.
            self.confirm_end(session, &chain, None).await?;
            let gone = self
                .table(AUDIT)
                .delete_many(filter.clone())
                .session(&mut *session)
                .await?;
            // Another publisher removed them, and wrote a record of it.
            if gone.deleted_count == 0 {
                Ok(None)
            } else {
                self.append_to(session, &chain, entries).await.map(Some)
            }
        });
        chain.close(end?);
        Ok(())
    }

    pub(in crate::store) async fn audit_rows(
        &self,
        chain: Option<&ChainId>,
        after: Option<&AuditCursor>,
        limit: usize,
    ) -> anyhow::Result<AuditRows> {
        // Bounds of the index instead of a filter: they go over values of all types, which other
        // programs may have written.
        let position = |chain: &ChainId, sequence: Bson| {
            doc! { "chain": chain.as_str(), "sequence": sequence }
        };
        let from = match (chain, after) {
            (Some(chain), Some(after)) if after.chain > *chain => return Ok(AuditRows::end()),
            (Some(chain), Some(after)) if after.chain < *chain => {
                Some(position(chain, Bson::MinKey))
            }
            (_any, Some(after)) => {
                let sequence = i64::try_from(after.sequence).unwrap_or(i64::MAX);
                Some(position(&after.chain, Bson::Int64(sequence)))
            }
            (Some(chain), None) => Some(position(chain, Bson::MinKey)),
            (None, None) => None,
        };
        let up_to = chain.map(|chain| position(chain, Bson::MaxKey));
        let read = async {
            let table = self.table(AUDIT);
            let mut find = table
                .find(doc! {})
                .hint(Hint::Keys(doc! { "chain": 1, "sequence": 1 }))
                .sort(doc! { "chain": 1, "sequence": 1 })
                .batch_size(u32::try_from(limit)?);
            if let Some(from) = from {
                find = find.min(from);
            }
            if let Some(up_to) = up_to {
                find = find.max(up_to);
            }
            let mut found = find.await?;
            // The lower bound is one of the records, where it is there.
            let is_after = |row: &AuditRow| {
                after
                    .is_none_or(|after| (&row.chain, row.sequence) > (&after.chain, after.sequence))
            };
            let mut rows = AuditRows::default();
            while let Some(found) = found.try_next().await? {
                match row(&found) {
                    Some(row) if !is_after(&row) => {}
                    Some(row) => {
                        if !rows.take(row, limit) {
                            return Ok(rows);
                        }
                    }
                    None => rows.note_damaged(|| found.to_string().chars().take(500).collect()),
                }
            }
            rows.is_end = true;
            anyhow::Ok(rows)
        };
        timeout(CALL_TIMEOUT, read).await.context(TIMED_OUT)?
    }

    /// The server finds one row for each chain by the index, whatever the number of records.
    pub(in crate::store) async fn audit_chains(&self) -> anyhow::Result<Vec<AuditChain>> {
        let ends = async |order: i32| -> anyhow::Result<Vec<AuditRow>> {
            let group = doc! { "_id": "$chain", "row": { "$first": "$$ROOT" } };
            let pipeline = [
                doc! { "$sort": { "chain": order, "sequence": order } },
                doc! { "$group": group },
            ];
            let mut found = self.table(AUDIT).aggregate(pipeline).await?;
            let mut rows = Vec::new();
            while let Some(found) = found.try_next().await? {
                rows.extend(found.get_document("row").ok().and_then(row));
            }
            rows.sort_by(|one: &AuditRow, other| one.chain.cmp(&other.chain));
            Ok(rows)
        };
        let read = async { anyhow::Ok((ends(1).await?, ends(-1).await?)) };
        let (firsts, lasts) = timeout(CHAINS_TIMEOUT, read).await.context(TIMED_OUT)??;
        let mut lasts = lasts.into_iter().peekable();
        let mut chains = Vec::with_capacity(firsts.len());
        for first in firsts {
            while lasts.next_if(|last| last.chain < first.chain).is_some() {}
            // A chain may have begun between the two reads.
            if let Some(last) = lasts.next_if(|last| last.chain == first.chain) {
                chains.push(AuditChain { first, last });
            }
        }
        Ok(chains)
    }
}

/// The position of a record is taken: a commit whose outcome was not known succeeded, or another program
/// wrote to the chain. Or the record before it is gone: the database was restored. Another attempt
/// begins a new chain.
#[derive(Debug, thiserror::Error)]
#[error("the audit chain of this publisher does not end as it is known here")]
pub(super) struct ChainTakenError;

fn stored(row: &AuditRow) -> anyhow::Result<Bdoc> {
    Ok(doc! {
        "chain": row.chain.as_str(),
        "sequence": i64::try_from(row.sequence)?,
        "total": i64::try_from(row.total)?,
        "record": row.text.as_str(),
    })
}

/// `None` for a row that is in no chain, which other means wrote.
fn row(row: &Bdoc) -> Option<AuditRow> {
    let number = |name| u64::try_from(row.get_i64(name).ok()?).ok();
    Some(AuditRow {
        chain: row.get_str("chain").ok()?.parse().ok()?,
        sequence: number("sequence")?,
        total: number("total").unwrap_or_default(),
        text: row.get_str("record").unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests;
