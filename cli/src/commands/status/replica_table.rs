//! The short form: one line about the publisher, then one row per replica.

use comfy_table::Color;
use contract::status::ReplicaState;

use super::{
    Report, reasons,
    replica::{Overall, ReplicaView},
};
use crate::output::{self, Cell, Table, coloured};

impl Report {
    /// The number of replicas, how many of them are current, and the publisher with its heads.
    pub(super) fn summary(&self) -> String {
        let replicas = self.replica_rows();
        let current = replicas
            .iter()
            .filter(|replica| replica.overall() == Overall::State(ReplicaState::Current))
            .count();
        let word = if replicas.len() == 1 {
            "replica"
        } else {
            "replicas"
        };
        format!(
            "{} {word}, {current} current; publisher {}{}",
            replicas.len(),
            self.publisher.url,
            self.publisher_heads()
        )
    }

    fn publisher_heads(&self) -> String {
        if let Some(error) = self.publisher.error() {
            return format!(": {error}");
        }
        let heads = self.heads();
        let Some(first) = heads.first() else {
            return " has no collection with revisions".to_owned();
        };
        let revisions: Vec<String> = heads
            .iter()
            .map(|head| format!("{} {}", head.collection, head.revision))
            .collect();
        format!(" at {} (epoch {})", revisions.join(", "), first.epoch)
    }

    /// One row per replica.
    pub(super) fn replica_table(&self) -> Table {
        let mut table =
            output::wrapping_table(["replica", "state", "lag", "events", "last seen", "reason"]);
        for replica in self.replica_rows() {
            table.add_row(row(&replica));
        }
        table
    }
}

fn row(replica: &ReplicaView) -> [Cell; 6] {
    let overall = replica.overall();
    let events = match (replica.intake_fault, &replica.error) {
        (Some(fault), _) => coloured(fault.as_str(), Color::Yellow),
        (None, Some(_error)) => "?".into(),
        (None, None) if replica.events_behind > 0 => {
            coloured(&format!("{} behind", replica.events_behind), Color::Yellow)
        }
        (None, None) => "ok".into(),
    };
    [
        (&replica.name).into(),
        coloured(overall.as_str(), colour(overall)),
        replica.lag().into(),
        events,
        (&replica.last_seen).into(),
        reasons::reason(replica).into(),
    ]
}

fn colour(overall: Overall) -> Color {
    match overall {
        Overall::State(ReplicaState::Current) => Color::Green,
        Overall::State(ReplicaState::Stale | ReplicaState::Behind) => Color::Yellow,
        Overall::State(ReplicaState::Loading | ReplicaState::Partial)
        | Overall::Different
        | Overall::Unreachable => Color::Red,
        Overall::Gone => Color::DarkGrey,
    }
}
