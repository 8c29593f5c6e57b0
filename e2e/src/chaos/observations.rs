//! What replicas were seen to serve: one stream of changes per replica, short enough to keep for a
//! round.
//!
//! It records and never judges: [`super::validators`] reads it when all outcomes of the round are known.

use std::collections::{BTreeMap, BTreeSet};

use contract::status::ReplicaState;
use serde::Serialize;

use super::record::{DocumentKey, Millis, SLOTS};
use crate::testbed::SCHEMA_FREE;

/// A document as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SeenValue {
    /// Its revision.
    pub revision: u64,
    /// The request that it comes from.
    pub token: u64,
}

/// All documents at one moment, by [`Key::slot`].
pub type DocumentTable = [Option<SeenValue>; SLOTS];

/// One life of a replica without a reset: within it nothing goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessRun {
    /// Its process, by its own account.
    pub boot: String,
    /// Its process, by ours.
    pub start: u32,
    /// How often it said that it had diverged.
    pub resets: u64,
}

/// A consistent view that a replica served, or several equal ones in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServedView {
    /// When the first request of the row was sent.
    pub sent: Millis,
    /// When its answer was there.
    pub got: Millis,
    /// When the last request of the row was sent.
    pub last_sent: Millis,
    /// Whose it is.
    pub life: ProcessRun,
    /// The history it counts in.
    pub epoch: String,
    /// How far it may be trusted, it said.
    pub state: ReplicaState,
    /// The watermarks.
    pub heads: [u64; SCHEMA_FREE.len()],
    /// What differs from the reading before, of whatever life.
    pub changed: Vec<(DocumentKey, Option<SeenValue>)>,
}

/// Something seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Observation {
    /// A view.
    ServedView(ServedView),
    /// An answer that no replica may give: a status besides 200 and 503, a view without its end, a
    /// foreign document.
    Wrong {
        /// When it came.
        at: Millis,
        /// What it was.
        what: String,
    },
}

/// What one replica was seen to serve, and how often it was looked at.
#[derive(Debug, Default)]
pub struct Observations {
    /// Since the round began.
    pub observations: Vec<Observation>,
    /// Views that were read since the campaign began.
    pub count: u64,
    /// The epochs that they were of.
    pub epochs: BTreeSet<String>,
    /// How often each process said that it had diverged.
    pub resets: BTreeMap<String, u64>,
}

impl Observations {
    /// Adds a reading; one that says the same again only lengthens the last.
    pub fn add(&mut self, reading: ServedView) {
        self.count += 1;
        if let Some(Observation::ServedView(last)) = self.observations.last_mut()
            && reading.changed.is_empty()
            && (&reading.life, &reading.epoch, reading.state, reading.heads)
                == (&last.life, &last.epoch, last.state, last.heads)
        {
            last.last_sent = reading.last_sent;
        } else {
            self.observations.push(Observation::ServedView(reading));
        }
    }
}
