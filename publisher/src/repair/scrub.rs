//! The scrub: reads all rows slowly, so that damage is known before a reader needs the row.
//!
//! It never writes. What it finds is logged once for each row, counted, and shown by `/readyz`.

use std::time::{Duration, Instant};

use contract::CollectionName;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::PAGE_BYTES;
use crate::store::{
    Store,
    damage::{DamagedPart, Outcome},
    integrity::{Damage, DocumentSum, SumMismatch, is_damage, is_unproven},
    repair::{RowKey, StoredHead, StoredRow},
};

/// Rows that are read at once.
const PAGE: u32 = 100;
/// Time from the begin of a pass to the begin of the next, at least.
const PASS: Duration = Duration::from_secs(3_600);
/// Pause after a failed reading.
const RETRY: Duration = Duration::from_secs(10);

/// Which rows are taken as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowsFrom {
    /// Those that fit their checksums.
    Rows,
    /// None: the newest record of each document in the change log is compared.
    Log,
}

/// All rows of a collection, and its head before and after they were read.
struct RowsRead {
    before: StoredHead,
    after: StoredHead,
    sum: DocumentSum,
}

impl RowsRead {
    /// Whether the rows add up to the head. `None` where that is not known: what was written meanwhile
    /// may be in the sum or not, and a damaged head is reported by every reader of it.
    fn checked(&self) -> Option<Result<(), SumMismatch>> {
        match (&self.before, &self.after) {
            (Some(Ok(before)), Some(Ok(after))) if before.revision == after.revision => {
                Some(self.sum.check(after))
            }
            _written_or_damaged => None,
        }
    }
}

/// Reads all rows of a store, pass by pass.
pub struct Scrub {
    store: Store,
    rows_per_second: u32,
}

impl Scrub {
    /// A scrub that reads at most so many rows in a second; 0 means none.
    pub fn new(store: Store, rows_per_second: u32) -> Self {
        Self {
            store,
            rows_per_second,
        }
    }

    /// Reads until `stop` is cancelled.
    ///
    /// # Errors
    /// Never; the supervisor expects this signature.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        if self.rows_per_second > 0 {
            stop.run_until_cancelled(self.passes()).await;
        }
        stop.cancelled().await;
        Ok(())
    }

    async fn passes(&self) {
        loop {
            let start = Instant::now();
            for collection in self.store.policy().collections.all().iter() {
                while let Err(error) = self.pass(collection).await {
                    // Readiness and every reader say so too.
                    debug!(%collection, "rows cannot be checked now: {error:#}");
                    sleep(RETRY).await;
                }
            }
            sleep(PASS.saturating_sub(start.elapsed())).await;
        }
    }

    /// Reads all rows of one collection and compares them with its head. Records of the change log that
    /// are known to be damaged are read again.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn pass(&self, collection: &CollectionName) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut read = self.read(collection, RowsFrom::Rows).await?;
        // A row that fits its checksum may be an earlier one.
        if let Some(Err(_mismatch)) = read.checked() {
            read = self.read(collection, RowsFrom::Log).await?;
        }
        self.compare(collection, &read);
        self.check_head(collection, &read.after).await?;
        self.check_records(collection, &read.after).await?;
        self.store.damage().end_pass(collection, start);
        Ok(())
    }

    /// Reads all rows once.
    async fn read(&self, collection: &CollectionName, from: RowsFrom) -> anyhow::Result<RowsRead> {
        let before = self.store.stored_head(collection).await?;
        let mut sum = DocumentSum::default();
        let mut after: Option<RowKey> = None;
        loop {
            let page = self
                .store
                .stored_rows(collection, after.as_ref(), PAGE, PAGE_BYTES)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let rows = u32::try_from(page.len()).unwrap_or(PAGE);
            for row in page {
                self.check(collection, row, from, &mut sum).await?;
            }
            let pause = f64::from(rows) / f64::from(self.rows_per_second.max(1));
            sleep(Duration::from_secs_f64(pause)).await;
        }
        let after = self.store.stored_head(collection).await?;
        Ok(RowsRead { before, after, sum })
    }

    async fn check(
        &self,
        collection: &CollectionName,
        row: StoredRow,
        from: RowsFrom,
        sum: &mut DocumentSum,
    ) -> anyhow::Result<()> {
        let document = match (row.document, row.id) {
            (Ok(_document), Some(id)) if from == RowsFrom::Log => {
                let verdict = self.store.examine_row(collection, &id).await?;
                let settled = self.store.damage().settle(collection, id.as_str(), verdict);
                // What is refused was reported.
                settled.unwrap_or_default()
            }
            (Ok(document), _) => Some(document),
            // A reader of this document finds the same, and the store reports it.
            (Err(_damage), Some(id)) => match self.store.document(collection, &id).await {
                Ok(document) => document,
                Err(error) if is_damage(&error) => None,
                Err(error) => return Err(error),
            },
            (Err(_damage), None) => {
                self.store.damage().report(
                    collection,
                    DamagedPart::Row(row.key.to_string()),
                    Outcome::Ignored,
                    format_args!("a row is ignored: {}", Damage::Stray),
                );
                None
            }
        };
        if let Some(document) = document {
            sum.add(&document);
        }
        Ok(())
    }

    async fn check_head(
        &self,
        collection: &CollectionName,
        head: &StoredHead,
    ) -> anyhow::Result<()> {
        match head {
            // A reader of the head finds the same, and the store reports it.
            Some(Err(_damage)) => {
                let read = self.store.heads(&[collection.clone()].into()).await;
                ignore_damage(read)
            }
            Some(Ok(head)) if is_unproven(head) => {
                self.store.damage().report(
                    collection,
                    DamagedPart::Head,
                    Outcome::Ignored,
                    "it has no proof, because a repair changed its content and no epoch was declared \
                     since, or because it was edited: replicas that hold other content load it again \
                     at their next check-in; `confcast repair --yes` or a start of the publisher \
                     declares the epoch",
                );
                Ok(())
            }
            _whole_or_gone => Ok(()),
        }
    }

    async fn check_records(
        &self,
        collection: &CollectionName,
        head: &StoredHead,
    ) -> anyhow::Result<()> {
        let oldest = match head {
            Some(Ok(head)) => head.oldest,
            _damaged_or_gone => 0,
        };
        for revision in self.store.damage().records(collection) {
            // Nobody reads a record before the oldest.
            if revision >= oldest {
                let since = revision.saturating_sub(1);
                let read = self.store.changes(collection, since, 1, 1).await;
                // The store reports it.
                ignore_damage(read)?;
            }
        }
        Ok(())
    }

    fn compare(&self, collection: &CollectionName, read: &RowsRead) {
        let Some(checked) = read.checked() else {
            return;
        };
        self.store.note_sum(collection, checked.clone());
        if let Err(mismatch) = checked {
            self.store.damage().report_sum(&mismatch);
        }
    }
}

/// # Errors
/// As the reading, unless something stored is damaged.
fn ignore_damage<T>(read: anyhow::Result<T>) -> anyhow::Result<()> {
    match read {
        Err(error) if !is_damage(&error) => Err(error),
        _read_or_damaged => Ok(()),
    }
}
