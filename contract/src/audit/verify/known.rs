//! What a verification knows from elsewhere than the records: earlier tips, and how the log is kept.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    audit::{AuditRetention, ChainId, Tip},
    text::Escaped,
};

/// By how much the clocks of publishers may differ.
const CLOCKS: TimeDelta = TimeDelta::minutes(10);

/// The newest record of a chain at an earlier verification.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownTip {
    /// The record.
    #[serde(flatten)]
    pub tip: Tip,
    /// When it was written; absent where an earlier version noted the tip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<DateTime<Utc>>,
}

impl From<Tip> for KnownTip {
    fn from(tip: Tip) -> Self {
        Self { tip, time: None }
    }
}

/// A record that says that retention removed other ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// The record that says so.
    pub record: Tip,
    /// Its time.
    pub time: DateTime<Utc>,
    /// Its actor.
    pub actor: String,
    /// The last record that is gone, of each chain.
    pub removed: Vec<Tip>,
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tip {
            chain, sequence, ..
        } = &self.record;
        let (time, actor) = (self.time.to_rfc3339(), Escaped(&self.actor));
        write!(
            f,
            "{actor} at {time} (record {sequence} of chain {chain}) removed"
        )?;
        for (number, removed) in self.removed.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(
                f,
                "{comma} chain {} up to record {}",
                removed.chain, removed.sequence
            )?;
        }
        Ok(())
    }
}

/// What a verification expects.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    /// The tips of an earlier verification. They are there, if nobody removed them.
    pub tips: Vec<KnownTip>,
    /// Whether the records may be a part of the log, that begins after a known one: an export may.
    pub is_part: bool,
    /// Whether the store has one chain for all publishers.
    pub one_chain: bool,
    /// What retention leaves, as the publisher says; `None` where nobody was asked.
    pub retention: Option<AuditRetention>,
    /// Whether retention may have removed records that are known.
    pub allows_removed: bool,
    /// The time now, by which the age of a known record is judged; `None` where no age is judged.
    pub now: Option<DateTime<Utc>>,
}

impl Expectation {
    /// Whether a record is one of the tips.
    pub(super) fn knows(&self, tip: &Tip) -> bool {
        self.tips.iter().any(|known| known.tip == *tip)
    }

    /// Whether a record of this time is older than the publisher keeps records.
    pub(super) fn is_old(&self, time: Option<DateTime<Utc>>) -> bool {
        let (Some(now), Some(time), Some(retention)) = (self.now, time, self.retention) else {
            return false;
        };
        retention.keep_days > 0 && now - time >= TimeDelta::days(i64::from(retention.keep_days))
    }

    /// Whether the publisher removes no record of a log of this size. Half of the bound is left for a
    /// log that was trimmed by size.
    pub(super) fn keeps(&self, bytes: u64) -> bool {
        let keeps = |retention: AuditRetention| {
            retention.keep_days == 0 && bytes < retention.keep_bytes / 2
        };
        !self.allows_removed && self.retention.is_some_and(keeps)
    }

    /// Whether a chain that is not known began before the known records.
    pub(super) fn is_inserted(&self, chain: &ChainId, began: DateTime<Utc>) -> bool {
        let is_known = self.tips.iter().any(|known| known.tip.chain == *chain);
        let newest = self.tips.iter().filter_map(|known| known.time).max();
        !is_known && newest.is_some_and(|newest| began < newest - CLOCKS)
    }
}
