//! The views that replicas were seen to serve, one list per replica, kept for one round.
//!
//! It records and never judges: [`super::validators`] reads it when all outcomes of the round are
//! known.

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
    /// Token of the request that wrote it.
    pub token: u64,
}

/// All documents of one view, by [`DocumentKey::slot`].
pub type DocumentTable = [Option<SeenValue>; SLOTS];

/// One run of a replica without a reset. Within it no revision may go back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessRun {
    /// Boot id from the status of the replica.
    pub boot: String,
    /// Number of the start, counted by the campaign.
    pub start: u32,
    /// How often the replica reported a divergence.
    pub resets: u64,
}

/// A consistent view that a replica served, or several equal ones in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServedView {
    /// When the first request of the row was sent.
    pub sent: Millis,
    /// When its answer arrived.
    pub got: Millis,
    /// When the last request of the row was sent.
    pub last_sent: Millis,
    /// The run that served it.
    pub life: ProcessRun,
    /// The epoch of its revisions.
    pub epoch: String,
    /// The state that the replica reported.
    pub state: ReplicaState,
    /// The revision of each collection, in the order of [`SCHEMA_FREE`].
    pub heads: [u64; SCHEMA_FREE.len()],
    /// The documents that differ from the previous view, whatever its run.
    pub changed: Vec<(DocumentKey, Option<SeenValue>)>,
}

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Observation {
    /// A view.
    ServedView(ServedView),
    /// An answer that no replica may give: a status other than 200 and 503, an incomplete view, an
    /// unknown document.
    Wrong {
        /// Time of the answer.
        at: Millis,
        /// The answer in words.
        what: String,
    },
}

/// The observations of one replica.
#[derive(Debug, Default)]
pub struct Observations {
    /// Those of this round.
    pub observations: Vec<Observation>,
    /// Number of views since the campaign began.
    pub count: u64,
    /// The epochs of these views.
    pub epochs: BTreeSet<String>,
    /// By boot id: how often the process reported a divergence.
    pub resets: BTreeMap<String, u64>,
}

impl Observations {
    /// Adds a view. A view that equals the previous one only extends it.
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
