//! The records of the replicas in memory: each is there once, and the list, the metrics, waits and the
//! next write share it.
//!
//! Records are compared by a clock that never steps. The time in a record is the wall clock of the
//! publisher that took the check-in: it may step back, and that of another publisher may be ahead.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use contract::{
    fleet::{CheckIn, MAX_INTERVAL_MS},
    text::Escaped,
};
use service::runtime::log_rate::LogRate;
use tokio::time::{Duration, Instant};
use tracing::warn;

use super::{known::KnownReplicas, limits};
use crate::store::replicas::{ReplicaRow, StoredReplica};

/// A replica is gone after this many of its intervals in silence, and never sooner than
/// [`MIN_SILENCE`].
const SILENT_INTERVALS: u64 = 3;
const MIN_SILENCE: Duration = Duration::from_secs(3);

/// The newest record of a replica. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Record {
    /// The record, and how the check-in was received.
    pub row: Arc<ReplicaRow>,
    /// When the check-in came.
    pub(super) at: Instant,
}

impl Record {
    /// Name of the replica.
    pub fn name(&self) -> &str {
        &self.row.record.check_in.instance
    }

    /// Whether no check-in arrived for more than three intervals.
    pub fn is_gone(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > silence(&self.row.record.check_in)
    }

    /// Until when the replica counts as live without another check-in.
    pub(super) fn live_until(&self) -> Instant {
        self.at + silence(&self.row.record.check_in)
    }

    fn is_stored_as(&self, seen: Option<DateTime<Utc>>) -> bool {
        // A row of a store has whole milliseconds.
        seen.is_some_and(|seen| seen.timestamp_millis() == self.row.record.seen.timestamp_millis())
    }
}

/// How long a replica that checked in counts as live.
pub(super) fn silence(check_in: &CheckIn) -> Duration {
    // A row may be older than the bound on intervals.
    let interval_ms = check_in.interval_ms.min(MAX_INTERVAL_MS);
    Duration::from_millis(interval_ms * SILENT_INTERVALS).max(MIN_SILENCE)
}

/// Reads the rows of a store beside the records in memory.
pub(super) struct RowReader {
    known: Arc<KnownReplicas>,
    /// The newest records in memory: a row that is one of them is not parsed.
    newest: HashMap<String, Record>,
    /// The records that the store may not have yet.
    waiting: HashMap<String, Record>,
    /// When the read before this one began.
    last_read: Option<Instant>,
    now: (Instant, DateTime<Utc>),
    records: Vec<Record>,
}

impl RowReader {
    pub(super) fn new(
        known: Arc<KnownReplicas>,
        newest: HashMap<String, Record>,
        waiting: HashMap<String, Record>,
        begun: Instant,
        last_read: Option<Instant>,
    ) -> Self {
        Self {
            known,
            newest,
            waiting,
            last_read,
            now: (begun, Utc::now()),
            records: Vec::new(),
        }
    }

    /// Takes a row of the store.
    pub(super) fn read(&mut self, stored: StoredReplica<'_>) {
        let newest = self.newest.get(stored.name);
        let record = match newest.filter(|newest| newest.is_stored_as(stored.seen)) {
            Some(newest) => Some(newest.clone()),
            None => self.parse(stored),
        };
        let waits = self.waiting.get(stored.name);
        match (record, waits) {
            // A replica may have checked in with another publisher since. A row from the future was
            // written by a clock that is ahead, and says nothing about that.
            (Some(record), Some(waits))
                if record.at > waits.at && record.row.record.seen <= self.now.1 =>
            {
                self.waiting.remove(stored.name);
                self.records.push(record);
            }
            (Some(record), None) => self.records.push(record),
            (_, _waits_or_nothing) => {}
        }
    }

    /// All records, by name.
    pub(super) fn records(self) -> Vec<Record> {
        let mut records = self.records;
        records.extend(self.waiting.into_values());
        records.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        records
    }

    /// The record of a row that another publisher wrote, or a process before this one. `None` where it
    /// cannot be read or exceeds the bounds.
    fn parse(&self, stored: StoredReplica<'_>) -> Option<Record> {
        if !self.known.may_admit(stored.name) {
            return None;
        }
        let row = serde_json::from_slice::<ReplicaRow>(stored.text).ok();
        let row = row.filter(|row| row.record.check_in.instance == stored.name);
        let Some(row) = row else {
            static LINES: LogRate = LogRate::new();
            if let Some(left_out) = LINES.due() {
                warn!(
                    "the row of the replica {} in the store cannot be read and is left out, until the \
                     replica checks in again{left_out}",
                    Escaped(stored.name)
                );
            }
            return None;
        };
        let bytes = limits::cost(&row, stored.text.len());
        if !self.known.admit(stored.name, bytes) {
            return None;
        }
        let at = self.arrival(stored.name, row.record.seen);
        Some(Record {
            row: Arc::new(row),
            at,
        })
    }

    /// When the check-in of a row came.
    fn arrival(&self, name: &str, seen: DateTime<Utc>) -> Instant {
        let (now, clock) = self.now;
        // A row from the future is one of now.
        let age = (clock - seen).max(TimeDelta::zero());
        let age = age.to_std().unwrap_or_default();
        // Where a clock cannot go back before the start of the machine: the replica is gone soon.
        let by_clock = now.checked_sub(age).unwrap_or(now);
        match self.last_read {
            // It was written since, whatever the clock of the publisher says that wrote it. While the store may
            // not have the newest record yet, it may as well be an older one.
            Some(last_read)
                if self.newest.contains_key(name) && !self.waiting.contains_key(name) =>
            {
                by_clock.max(last_read)
            }
            _unknown_before => by_clock,
        }
    }
}

#[cfg(test)]
mod tests;
