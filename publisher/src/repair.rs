//! Repair and scrub: finds rows, records and heads that are not what was committed, and restores
//! them from the change log.
//!
//! A value is never guessed: a row whose value the log does not have is reported, and moved aside only
//! if the operator asks for it. Each write of the store proves itself what it writes, so a collection
//! may be written meanwhile; a head is replaced only if it is still the one that was read.

use std::{collections::BTreeMap, time::Instant};

use contract::{
    Change, CollectionName, DocumentId, Head, Revision,
    repair::{CollectionRepair, DamagedRow, DamagedRows, RepairRequest, RepairState},
};
use tracing::{info, warn};

use crate::store::{
    Store,
    integrity::{
        Damage, DamagedHead, DocumentSum, Verdict, head_of_record, is_unproven, rebuild_head,
    },
    repair::{RowKey, StoredHead},
};

mod past;
mod scrub;
mod task;

pub use scrub::Scrub;
pub use task::{Repairs, repairs};

/// Rows or records that are read at once.
const PAGE: u32 = 500;
/// Bytes of rows or records that are read at once.
const PAGE_BYTES: usize = 4 << 20;
/// How often a collection that is written meanwhile is read again.
const ATTEMPTS: usize = 3;

/// The result for one collection.
pub struct Repaired {
    /// What was found and done.
    pub report: CollectionRepair,
    /// The head has no proof, because replicas may hold other content at the same revision or because
    /// its proof is gone: an epoch has to be declared, which proves it. Until then each repair says so.
    pub needs_epoch: bool,
}

/// Examines a collection, and repairs it if the request says so.
///
/// # Errors
/// When the store cannot be read or written.
pub async fn repair(
    store: &Store,
    collection: &CollectionName,
    request: &RepairRequest,
) -> anyhow::Result<Repaired> {
    for _attempt in 0..ATTEMPTS {
        let examination = Examination::new(store, collection, request);
        if let Some(mut repaired) = examination.run().await? {
            past::examine(store, request, &mut repaired.report).await?;
            let report = &repaired.report;
            if report.state == RepairState::Repaired {
                store.check_absence(collection).await?;
            }
            if matches!(report.state, RepairState::Repaired | RepairState::Whole) {
                // Head, rows and log were examined.
                store.damage().end_pass(collection, Instant::now());
            }
            if report.state != RepairState::Whole {
                warn!(
                    %collection, state = ?report.state, applied = request.apply,
                    from_log = report.from_log.count, stray = report.stray.count,
                    unrecoverable = report.unrecoverable.count, records = report.records.count,
                    "a repair found damage in {collection}"
                );
            }
            return Ok(repaired);
        }
        info!(%collection, "{collection} was written while it was examined; it is examined again");
    }
    Ok(Repaired {
        report: Examination::new(store, collection, request).report(RepairState::Busy),
        needs_epoch: false,
    })
}

/// What the change log has.
#[derive(Default)]
struct LogState {
    /// The newest revision of each document, and whether it was deleted.
    documents: BTreeMap<DocumentId, (Revision, bool)>,
    newest: Option<Change>,
    /// The first revision from which every record is whole.
    oldest: Option<Revision>,
}

struct Examination<'a> {
    store: &'a Store,
    collection: &'a CollectionName,
    request: &'a RepairRequest,
    log: LogState,
    sum: DocumentSum,
    newest_row: Revision,
    rows: u64,
    from_log: DamagedRows,
    stray: DamagedRows,
    unrecoverable: DamagedRows,
    records: DamagedRows,
    /// Rows whose value the change log does not have.
    lost: Vec<(RowKey, DamagedRow)>,
    head_before: Option<Head>,
    head_after: Option<Head>,
}

impl<'a> Examination<'a> {
    fn new(store: &'a Store, collection: &'a CollectionName, request: &'a RepairRequest) -> Self {
        Self {
            store,
            collection,
            request,
            log: LogState::default(),
            sum: DocumentSum::default(),
            newest_row: 0,
            rows: 0,
            from_log: DamagedRows::default(),
            stray: DamagedRows::default(),
            unrecoverable: DamagedRows::default(),
            records: DamagedRows::default(),
            lost: Vec::new(),
            head_before: None,
            head_after: None,
        }
    }

    /// `None` when the collection was written meanwhile.
    async fn run(mut self) -> anyhow::Result<Option<Repaired>> {
        let stored = self.store.stored_head(self.collection).await?;
        self.head_before = stored.clone().and_then(Result::ok);
        self.read_log().await?;
        self.read_rows().await?;
        let now = self.store.stored_head(self.collection).await?;
        // Compared without `oldest`, which retention moves.
        if revision(&now) != revision(&stored) {
            return Ok(None);
        }
        self.settle_head(&now).await
    }

    async fn read_log(&mut self) -> anyhow::Result<()> {
        let head = self.head_before.as_ref();
        let has_head = head.is_some();
        let mut since = head.map_or(0, |head| head.oldest.saturating_sub(1));
        let end = head.map_or(0, |head| head.revision);
        let mut oldest = None;
        loop {
            let read = self
                .store
                .changes(self.collection, since, PAGE as usize, PAGE_BYTES)
                .await;
            let page = match read {
                Ok(page) => page,
                // No record tells what the head was.
                Err(error) if error.root_cause().is::<DamagedHead>() => Vec::new(),
                Err(error) => return Err(error),
            };
            let Some(first) = page.first() else {
                if since >= end {
                    break;
                }
                // A page ends before a damaged record.
                since += 1;
                self.damaged_record(since, "it is damaged");
                oldest = None;
                continue;
            };
            if first.revision != since + 1 && (has_head || since > 0) {
                self.damaged_record(since + 1, "it is gone");
                oldest = None;
            }
            let mut expected = first.revision;
            for change in page {
                if change.revision != expected {
                    self.damaged_record(expected, "it is gone");
                    oldest = None;
                }
                expected = change.revision + 1;
                since = change.revision;
                oldest.get_or_insert(change.revision);
                let entry = (change.revision, change.config_data.is_none());
                self.log.documents.insert(change.id.clone(), entry);
                self.log.newest = Some(change);
            }
        }
        self.log.oldest = oldest;
        Ok(())
    }

    fn damaged_record(&mut self, revision: Revision, damage: &str) {
        self.records.add(DamagedRow {
            id: format!("revision {revision}"),
            damage: damage.to_owned(),
            revision: Some(revision),
        });
    }

    async fn read_rows(&mut self) -> anyhow::Result<()> {
        let mut after: Option<RowKey> = None;
        loop {
            let page = self
                .store
                .stored_rows(self.collection, after.as_ref(), PAGE, PAGE_BYTES)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for row in page {
                self.rows += 1;
                let Some(id) = row.id else {
                    self.remove_stray(&row.key, Damage::Stray.to_string())
                        .await?;
                    continue;
                };
                let logged = self.log.documents.remove(&id);
                match row.document {
                    Ok(document)
                        if logged.is_none_or(|(logged, _)| logged <= document.revision()) =>
                    {
                        self.newest_row = self.newest_row.max(document.revision());
                        self.sum.add(&document);
                    }
                    _damaged_or_older => self.settle(&id, Some(row.key)).await?,
                }
            }
        }
        // Documents that the log has and no row.
        let gone = std::mem::take(&mut self.log.documents);
        for (id, (_revision, deleted)) in gone {
            if !deleted {
                self.settle(&id, None).await?;
            }
        }
        Ok(())
    }

    async fn settle(&mut self, id: &DocumentId, key: Option<RowKey>) -> anyhow::Result<()> {
        let verdict = if self.request.apply {
            self.store.restore_row(self.collection, id).await?
        } else {
            self.store.examine_row(self.collection, id).await?
        };
        let named = |damage: &Damage, revision| DamagedRow {
            id: id.to_string(),
            damage: damage.to_string(),
            revision,
        };
        match verdict {
            Verdict::Absent => {}
            Verdict::Whole(document) => {
                self.newest_row = self.newest_row.max(document.revision());
                self.sum.add(&document);
            }
            Verdict::FromLog(document, damage) => {
                self.newest_row = self.newest_row.max(document.revision());
                self.sum.add(&document);
                self.from_log.add(named(&damage, Some(document.revision())));
            }
            Verdict::DeletedByLog(damage) => self.from_log.add(named(&damage, None)),
            Verdict::Unrecoverable(damage) => {
                let row = named(&damage, None);
                match key {
                    Some(key) => self.lost.push((key, row)),
                    None => self.unrecoverable.add(row),
                }
            }
        }
        Ok(())
    }

    async fn remove_stray(&mut self, key: &RowKey, damage: String) -> anyhow::Result<()> {
        if self.request.apply {
            self.store.set_row_aside(self.collection, key).await?;
        }
        self.stray.add(DamagedRow {
            id: key.to_string(),
            damage,
            revision: None,
        });
        Ok(())
    }

    async fn settle_head(mut self, stored: &StoredHead) -> anyhow::Result<Option<Repaired>> {
        let committed = self.committed();
        let adds_up = committed == Some(self.sum);
        let lost = std::mem::take(&mut self.lost);
        for (key, row) in lost {
            // A row that the head does not stand for is no document.
            if adds_up || self.request.discard {
                self.remove_stray(&key, row.damage).await?;
            } else {
                self.unrecoverable.add(row);
            }
        }
        // Rows alone do not tell what was committed.
        if self.head_before.is_none() && self.log.newest.is_none() && !self.request.discard {
            self.unrecoverable.add(DamagedRow {
                id: "(head)".to_owned(),
                damage: "neither its row nor the change log tells what was committed: restore a \
                         backup. With --discard the rows that are there become the collection"
                    .to_owned(),
                revision: None,
            });
        }
        // The id of a row that is gone with its record is nowhere: only the sum tells that it was there.
        if let Some(committed) = committed
            && !adds_up
            && self.unrecoverable.count == 0
            && !self.request.discard
        {
            self.unrecoverable.add(DamagedRow {
                id: "(unknown)".to_owned(),
                damage: format!(
                    "rows and change log have {} documents that do not add up to the {} of the \
                     newest head or record: the row of a document may be gone with its record",
                    self.sum.count, committed.count
                ),
                revision: None,
            });
        }
        let damaged = self.from_log.count + self.stray.count + self.records.count > 0;
        if self.unrecoverable.count > 0 && !adds_up {
            return Ok(Some(self.done(RepairState::Unrecoverable, false)));
        }
        let mut head = self.head(stored).await?;
        let holds = |revision, count, digest| {
            (revision, count, digest) == (head.revision, head.count, head.digest)
        };
        // Replicas hold what the newest record says, or what the head said.
        let known = self.log.newest.as_ref();
        let known = known.is_some_and(|newest| holds(newest.revision, newest.count, newest.digest));
        let same = self.head_before.as_ref();
        let same = same.is_some_and(|before| holds(before.revision, before.count, before.digest));
        if !known && !same {
            // No record leads to this content. A head without a proof is never taken for one that
            // replicas have reached, and says so also after a stop of the process.
            head.proof = None;
            head.oldest = head.revision + 1;
        }
        let unproven = is_unproven(&head);
        let wrong = stored.as_ref().and_then(|stored| stored.as_ref().ok()) != Some(&head);
        self.head_after = Some(head.clone());
        if wrong && self.request.apply && !self.store.replace_head(stored, &head).await? {
            return Ok(None);
        }
        let state = match (damaged || wrong || unproven, self.request.apply) {
            (false, _) => RepairState::Whole,
            (true, true) => RepairState::Repaired,
            (true, false) => RepairState::Repairable,
        };
        // Only a new epoch proves a head whose proof is gone.
        Ok(Some(self.done(state, unproven)))
    }

    /// What was committed last, by the newer one of head and newest record. `None` where rows are newer
    /// than both.
    fn committed(&self) -> Option<DocumentSum> {
        let head = self.head_before.as_ref();
        let head = head.map(|head| (head.revision, head.count, head.digest));
        let record = self.log.newest.as_ref();
        let record = record.map(|record| (record.revision, record.count, record.digest));
        let newest = match (head, record) {
            (Some(head), Some(record)) if record.0 > head.0 => Some(record),
            (head, record) => head.or(record),
        };
        newest
            .filter(|(revision, _count, _digest)| *revision >= self.newest_row)
            .map(|(_revision, count, digest)| DocumentSum { count, digest })
    }

    /// The head that rows and log prove.
    async fn head(&self, stored: &StoredHead) -> anyhow::Result<Head> {
        let base = match stored {
            Some(Ok(head)) => head.clone(),
            _damaged_or_gone => {
                let epoch = self.store.identity().await?.epoch;
                match &self.log.newest {
                    Some(newest) => head_of_record(newest, newest.revision, epoch),
                    None => Head::empty(self.collection.clone(), epoch),
                }
            }
        };
        let trimmed = base.oldest;
        let head = rebuild_head(
            base,
            self.sum,
            self.log.newest.as_ref(),
            self.newest_row,
            self.log.oldest,
        );
        // The log of a whole head may begin later than its `oldest` only after a damaged record.
        let oldest = if matches!(stored, Some(Ok(_))) && self.records.count == 0 {
            trimmed
        } else {
            head.oldest
        };
        Ok(Head { oldest, ..head })
    }

    fn done(self, state: RepairState, needs_epoch: bool) -> Repaired {
        Repaired {
            report: self.report(state),
            needs_epoch,
        }
    }

    fn report(self, state: RepairState) -> CollectionRepair {
        CollectionRepair {
            collection: self.collection.clone(),
            state,
            rows: self.rows,
            from_log: self.from_log,
            stray: self.stray,
            unrecoverable: self.unrecoverable,
            records: self.records,
            head_before: self.head_before,
            head_after: self.head_after,
        }
    }
}

fn revision(head: &StoredHead) -> Option<Revision> {
    head.as_ref()
        .and_then(|head| head.as_ref().ok())
        .map(|head| head.revision)
}
