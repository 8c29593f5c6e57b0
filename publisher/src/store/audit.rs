//! The audit log of the store: which records a commit has, and the calls for all others.
//!
//! The embedded store has one chain, which is continued over restarts. In MongoDB each publisher
//! process has a chain of its own, because a shared one would let all writers conflict; where the end of
//! its chain is not known for certain, a publisher begins a new one. The first record of a process names
//! the newest records of the chains before it. Rows need no checksum: the chain is it.
//!
//! Whether a log is kept, and what is recorded besides writes, is decided by [`crate::audit`].

use chrono::{DateTime, Utc};
use contract::{
    CanonicalJson, Change,
    audit::{
        AuditCursor, AuditEvent, AuditOutcome, AuditPage, AuditRecord, AuditedChange, ChainId,
        DamagedRow, Entry, MAX_TIPS, PAGE_BYTES, PUBLISHER, Tip, WriteDetail, verify,
    },
    sha256::Sha256,
};
use serde::Deserialize;

use crate::{
    decide::{Command, Origin, Write, WriteResult},
    store::Store,
};

/// Records that a page reads at most, whether they match a filter or not.
const READ: usize = 10_000;
/// Records that one step of retention removes at most.
const STEP: usize = 1_000;
/// Bytes of a record at most, approximately. A chain whose sizes say more is not as large: other means
/// wrote them, and retention must not remove all of it.
const MAX_RECORD: u64 = 1 << 20;
/// Rows without a place that one reading gives at most: they are all faults.
const MAX_DAMAGED: usize = 10;
/// Positions and sizes from here on are not what a publisher wrote. A chain is not continued from there.
const MAX_POSITION: u64 = 1 << 62;

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuditRow {
    pub(super) chain: ChainId,
    pub(super) sequence: u64,
    /// Bytes of this record and of all before it in the chain, as they were written. It is no part of
    /// the record: retention takes the size of a chain from it.
    pub(super) total: u64,
    /// The record. Other programs may have changed it.
    pub(super) text: String,
}

impl AuditRow {
    fn cursor(&self) -> AuditCursor {
        AuditCursor {
            chain: self.chain.clone(),
            sequence: self.sequence,
        }
    }

    /// The record, where it can be read and is that of the row.
    fn record(&self) -> Option<AuditRecord> {
        let record: AuditRecord = serde_json::from_str(&self.text).ok()?;
        (record.chain == self.chain && record.sequence == self.sequence).then_some(record)
    }

    /// The record, where it has its digest too.
    fn whole(&self) -> Option<AuditRecord> {
        self.record()
            .filter(|_record| verify::is_whole(self.text.as_bytes()))
    }

    /// The text of the record as JSON. A row that is not the record of its place says so.
    fn shown(self) -> anyhow::Result<CanonicalJson> {
        if self.record().is_some()
            && let Ok(record) = CanonicalJson::parse(self.text.as_bytes())
        {
            return Ok(record);
        }
        let row = DamagedRow {
            damaged: format!(
                "row {} of chain {}, which is not the record of its place,",
                self.sequence, self.chain
            ),
            text: self.text,
        };
        Ok(CanonicalJson::of(&serde_json::to_value(row)?)?)
    }

    /// Bytes of what was before it in the chain.
    fn before(&self) -> u64 {
        self.total.saturating_sub(self.text.len() as u64)
    }
}

/// Rows that were read in order, bounded by number and by bytes.
#[derive(Debug, Default)]
pub(super) struct AuditRows {
    pub(super) rows: Vec<AuditRow>,
    /// Rows that were met which have no place in a chain: some, if there are many.
    pub(super) damaged: Vec<DamagedRow>,
    /// Whether there are no further ones.
    pub(super) is_end: bool,
    bytes: usize,
}

impl AuditRows {
    /// Nothing, and nothing after it.
    pub(super) fn end() -> Self {
        Self {
            is_end: true,
            ..Self::default()
        }
    }

    /// Takes a row; whether another one may follow.
    pub(super) fn take(&mut self, row: AuditRow, limit: usize) -> bool {
        self.bytes += row.text.len();
        self.rows.push(row);
        self.rows.len() < limit && self.bytes < PAGE_BYTES
    }

    /// Notes a row that has no place, with its columns.
    pub(super) fn note_damaged(&mut self, columns: impl FnOnce() -> String) {
        if self.damaged.len() < MAX_DAMAGED {
            self.damaged.push(DamagedRow {
                damaged: "a row that is in no chain".to_owned(),
                text: columns(),
            });
        }
    }
}

/// The first and the last record of a chain.
#[derive(Debug)]
pub(super) struct AuditChain {
    pub(super) first: AuditRow,
    pub(super) last: AuditRow,
}

impl AuditChain {
    /// Bytes of its records.
    fn size(&self) -> u64 {
        let rows = self.last.sequence.saturating_sub(self.first.sequence);
        let most = rows.saturating_add(1).saturating_mul(MAX_RECORD);
        let bytes = self.last.total.saturating_sub(self.first.before());
        bytes.min(most).min(MAX_POSITION)
    }
}

/// The end of a chain, where the next record goes.
#[derive(Debug, Clone)]
pub(super) struct ChainEnd {
    chain: ChainId,
    last: Option<Tip>,
    total: u64,
}

impl ChainEnd {
    /// The end of a new chain.
    pub(super) fn begin() -> anyhow::Result<Self> {
        Ok(Self {
            // Version 7 (RFC 9562): chains sort by the time at which they began.
            chain: uuid::Uuid::now_v7().to_string().parse()?,
            last: None,
            total: 0,
        })
    }

    /// The end of the chain whose last row this is; `None` where it cannot be continued, because the
    /// row is not what a publisher wrote.
    pub(super) fn after(row: &AuditRow) -> Option<Self> {
        let record = row.whole()?;
        if row.total > MAX_POSITION || row.sequence > MAX_POSITION {
            return None;
        }
        Some(Self {
            chain: row.chain.clone(),
            last: Some(record.tip()),
            total: row.total,
        })
    }

    /// The last record; `None` for a new chain.
    pub(super) fn last(&self) -> Option<&Tip> {
        self.last.as_ref()
    }

    /// Makes the row of an entry, and moves the end behind it.
    pub(super) fn append(&mut self, entry: &Entry) -> anyhow::Result<AuditRow> {
        let sealed = entry.seal(&self.chain, self.last.as_ref())?;
        let text = sealed.text.as_str().to_owned();
        self.total += text.len() as u64;
        let row = AuditRow {
            chain: self.chain.clone(),
            sequence: sealed.tip.sequence,
            total: self.total,
            text,
        };
        self.last = Some(sealed.tip);
        Ok(row)
    }
}

/// The first entry of a process: it names the newest record of each chain that no chain names yet.
/// `reason` says why a store that has one chain gets another one.
pub(super) fn started(publisher: &str, chains: &[AuditChain], reason: Option<String>) -> Entry {
    /// What a first record says.
    #[derive(Default, Deserialize)]
    struct Started {
        #[serde(default)]
        tips: Vec<Tip>,
    }
    let named: Vec<Tip> = chains
        .iter()
        .filter_map(|chain| Started::deserialize(&chain.first.record()?.detail).ok())
        .flat_map(|started| started.tips)
        .collect();
    let is_named = |tip: &Tip| {
        let mut of_chain = named.iter().filter(|named| named.chain == tip.chain);
        of_chain.any(|named| named.sequence >= tip.sequence)
    };
    // The newest chains first, should there be too many.
    let tips = chains
        .iter()
        .rev()
        .filter_map(|chain| Some(chain.last.record()?.tip()));
    let mut tips: Vec<_> = tips.filter(|tip| !is_named(tip)).take(MAX_TIPS).collect();
    tips.reverse();
    let event = AuditEvent::PublisherStarted {
        publisher: publisher.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tips,
        reason,
    };
    Entry::done(Utc::now(), PUBLISHER, event)
}

/// The entries of a decided group: one for each command that changed something.
pub(super) fn entries(
    group: &[Command],
    results: &[WriteResult],
    changes: &[Change],
) -> Vec<Entry> {
    // The changes are in the order of the commands.
    let mut changes = changes.iter();
    let mut entries = Vec::new();
    for (command, result) in group.iter().zip(results) {
        let outcomes = result.iter().flatten();
        let count = outcomes
            .filter(|outcome| outcome.operation.is_some())
            .count();
        let of_command: Vec<_> = changes.by_ref().take(count).collect();
        let (Some(first), Some(write)) = (of_command.first(), command.writes().first()) else {
            continue;
        };
        entries.push(entry(write, first, &of_command));
    }
    entries
}

/// The entry of a command, of its first write, and its changes. All writes of a command have the same
/// origin and context.
fn entry(write: &Write, first: &Change, changes: &[&Change]) -> Entry {
    let Origin { actor, is_rollback } = &write.origin;
    let context = &write.context;
    let detail = WriteDetail {
        change_set: first.change_set.as_ref().map(|set| set.id.clone()),
        reason: context.reason().map(str::to_owned),
        changes: changes
            .iter()
            .map(|change| AuditedChange::of(change))
            .collect(),
    };
    Entry {
        time: first.time,
        actor: actor.to_string(),
        user: context
            .user_id()
            .filter(|user| **user != **actor)
            .map(str::to_owned),
        correlation_id: context.correlation_id().map(str::to_owned),
        outcome: AuditOutcome::Done,
        event: if *is_rollback {
            AuditEvent::Rollback(detail)
        } else {
            AuditEvent::Write(detail)
        },
    }
}

/// Which records of the log are read.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Only those after this one: of its chain, and of the chains after it.
    pub after: Option<AuditCursor>,
    /// Only those of this chain.
    pub chain: Option<ChainId>,
    /// Only those at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Only those before this time.
    pub to: Option<DateTime<Utc>>,
    /// Only those of this actor.
    pub actor: Option<String>,
    /// Only those of this kind.
    pub kind: Option<String>,
    /// Records of a page at most.
    pub limit: usize,
}

impl AuditQuery {
    /// Whether a row is asked for. One that cannot be read always is: a reader must see it.
    fn matches(&self, row: &AuditRow) -> bool {
        let is_filtered =
            self.from.is_some() || self.to.is_some() || self.actor.is_some() || self.kind.is_some();
        if !is_filtered {
            return true;
        }
        row.record().is_none_or(|record| {
            self.from.is_none_or(|from| record.time >= from)
                && self.to.is_none_or(|to| record.time < to)
                && self
                    .actor
                    .as_ref()
                    .is_none_or(|actor| record.actor == *actor)
                && self.kind.as_ref().is_none_or(|kind| record.kind == *kind)
        })
    }
}

/// What one step of retention removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditTrimmed {
    /// The last record that is gone.
    pub removed: Tip,
    /// How many are gone.
    pub records: u64,
}

impl Store {
    /// From now on each commit has its audit records. `publisher` names this process in them.
    pub fn enable_audit(&self, publisher: &str) {
        match self {
            Self::Embedded(store) => store.enable_audit(publisher),
            Self::Mongo(store) => store.enable_audit(publisher),
        }
    }

    /// Appends entries to the log, all or none, durably. Without entries it begins the chain of this
    /// process, if that was not done yet. After an error it is not known whether they were written.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn append_audit(&self, entries: Vec<Entry>) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.append_audit(entries).await,
            Self::Mongo(store) => store.opened()?.append_audit(&entries).await,
        }
    }

    /// Whether all publishers write to one chain.
    pub fn has_one_audit_chain(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    /// A page of the log, by chain and position. A row that is not the record of its place is given as
    /// a [`DamagedRow`]; one that is in no chain is so too, besides `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn audit_page(&self, query: &AuditQuery) -> anyhow::Result<AuditPage<CanonicalJson>> {
        let limit = query.limit.max(1);
        let mut page = AuditPage {
            items: Vec::new(),
            next: None,
        };
        let mut after = query.after.clone();
        let (mut read, mut shown, mut bytes) = (0, 0, 0);
        loop {
            let step = STEP.min(limit + 1);
            let rows = self
                .audit_rows(query.chain.as_ref(), after.as_ref(), step)
                .await?;
            for row in rows.damaged {
                page.items
                    .push(CanonicalJson::of(&serde_json::to_value(row)?)?);
            }
            for row in rows.rows {
                if shown >= limit || bytes >= PAGE_BYTES || read >= READ {
                    page.next = after;
                    return Ok(page);
                }
                after = Some(row.cursor());
                read += 1;
                if query.matches(&row) {
                    shown += 1;
                    bytes += row.text.len();
                    page.items.push(row.shown()?);
                }
            }
            if rows.is_end {
                return Ok(page);
            }
        }
    }

    /// The newest record of each chain that can be read.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn audit_tips(&self) -> anyhow::Result<Vec<Tip>> {
        let chains = self.audit_chains().await?;
        let tips = chains
            .iter()
            .filter_map(|chain| Some(chain.last.record()?.tip()));
        Ok(tips.collect())
    }

    /// Removes the oldest records of one chain, at most 1000: those from before `before`, and as many
    /// as are above `max_bytes` in all chains together. A record of what is gone is written in the same
    /// transaction. `None` when nothing has to go.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn trim_audit(
        &self,
        before: DateTime<Utc>,
        max_bytes: u64,
    ) -> anyhow::Result<Option<AuditTrimmed>> {
        let mut chains = self.audit_chains().await?;
        let bytes = chains.iter().map(AuditChain::size);
        let bytes = bytes.fold(0, u64::saturating_add);
        let excess = bytes.saturating_sub(max_bytes);
        chains.sort_by_key(|chain| chain.first.record().map(|record| record.time));
        let mut removed = None;
        for AuditChain { first, .. } in chains {
            if excess == 0 && first.record().is_some_and(|record| record.time >= before) {
                break;
            }
            let from = AuditCursor {
                chain: first.chain.clone(),
                sequence: 0,
            };
            let rows = self
                .audit_rows(Some(&first.chain), Some(&from), STEP)
                .await?;
            removed = to_remove(&rows.rows, before, excess);
            if removed.is_some() {
                break;
            }
        }
        if let Some(AuditTrimmed { removed, .. }) = &removed {
            let event = AuditEvent::Retention {
                removed: vec![removed.clone()],
            };
            let entry = Entry::done(Utc::now(), PUBLISHER, event);
            match self {
                Self::Embedded(store) => store.remove_audit(removed.clone(), entry).await?,
                Self::Mongo(store) => store.opened()?.remove_audit(removed, &entry).await?,
            }
        }
        Ok(removed)
    }

    /// The first and the last row of each chain, in their order.
    async fn audit_chains(&self) -> anyhow::Result<Vec<AuditChain>> {
        match self {
            Self::Embedded(store) => store.audit_chains().await,
            Self::Mongo(store) => store.opened()?.audit_chains().await,
        }
    }

    async fn audit_rows(
        &self,
        chain: Option<&ChainId>,
        after: Option<&AuditCursor>,
        limit: usize,
    ) -> anyhow::Result<AuditRows> {
        match self {
            Self::Embedded(store) => {
                let (chain, after) = (chain.cloned(), after.cloned());
                store.audit_rows(chain, after, limit).await
            }
            Self::Mongo(store) => store.opened()?.audit_rows(chain, after, limit).await,
        }
    }
}

/// What has to go of the first rows of a chain: those from before a time, until `excess` bytes and more
/// are gone. A row that was changed by other means is evidence, and stays unless bytes are needed.
fn to_remove(rows: &[AuditRow], before: DateTime<Utc>, excess: u64) -> Option<AuditTrimmed> {
    let mut removed = None;
    let mut bytes = 0;
    for (records, row) in (1..).zip(rows) {
        let record = row.whole();
        let is_old = record.as_ref().is_some_and(|record| record.time < before);
        if !is_old && bytes >= excess {
            break;
        }
        bytes += row.text.len() as u64;
        removed = Some(AuditTrimmed {
            removed: Tip {
                chain: row.chain.clone(),
                sequence: row.sequence,
                // Nothing is chained to zeros: a verification finds that it was changed.
                digest: record.map_or(Sha256::ZERO, |record| record.digest),
            },
            records,
        });
    }
    removed
}

#[cfg(test)]
pub(crate) mod tests;
