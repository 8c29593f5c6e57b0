//! The faults of a campaign with their times and targets: a pure function of the seed and the
//! targets.
//!
//! Only the schedule repeats. Its effect depends on the machine, as in production.

use std::time::Duration;

use serde::Serialize;

use super::{cluster::Cluster, random::Random};

/// Kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL, and a start after a while.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Freeze,
    /// Connections of a link are reset.
    Cut,
    /// A link is slow.
    Slow,
    /// A link half-closes its connections.
    HalfClose,
    /// A link accepts and nothing passes.
    BlackHole,
    /// The broker loses all data (FLUSHALL).
    Flush,
    /// The broker closes all connections.
    HangUp,
    /// The broker accepts connections and commands and answers none for a while.
    Hush,
    /// The last known good values of a replica are truncated or garbled, and the replica is
    /// restarted.
    Spoil,
    /// The database is restored from a dump.
    Restore,
    /// SIGTERM, an orderly stop, and a start after a while.
    Stop,
    /// SIGKILL, and a start with a wall clock that is one hour off, for a while.
    Clock,
    /// A replica receives an event that nobody committed, with revisions that do not exist.
    ForgedEvent,
    /// A publisher receives a check-in that claims revisions or an epoch that do not exist.
    ForgedCheckIn,
    /// A row of the store is changed by other means than a publisher.
    SpoiltRow,
    /// Readers ask a publisher or a replica for much and take nothing.
    StalledReaders,
}

impl FaultKind {
    /// Weight, and shortest and longest duration in milliseconds.
    const ALL: [(u64, (Self, u64, u64)); 17] = [
        (30, (Self::Kill, 0, 2_500)),
        (20, (Self::Freeze, 500, 6_000)),
        (11, (Self::Cut, 0, 2_500)),
        (10, (Self::Slow, 500, 4_000)),
        (6, (Self::HalfClose, 0, 500)),
        (10, (Self::BlackHole, 500, 6_000)),
        (4, (Self::Flush, 0, 0)),
        (6, (Self::HangUp, 0, 0)),
        (5, (Self::Hush, 500, 6_000)),
        (6, (Self::Spoil, 0, 500)),
        (6, (Self::Restore, 500, 3_000)),
        (12, (Self::Stop, 0, 2_500)),
        (6, (Self::Clock, 1_500, 6_000)),
        (6, (Self::ForgedEvent, 0, 0)),
        (6, (Self::ForgedCheckIn, 0, 0)),
        (8, (Self::SpoiltRow, 0, 0)),
        (3, (Self::StalledReaders, 0, 0)),
    ];

    fn hits_link(self) -> bool {
        matches!(
            self,
            Self::Cut | Self::Slow | Self::HalfClose | Self::BlackHole
        )
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Pause after the previous fault.
    pub gap: Duration,
    /// Its kind.
    pub kind: FaultKind,
    /// Name of the component or link.
    pub target: String,
    /// Its duration.
    pub hold: Duration,
    /// A random number for the details of the fault.
    pub salt: u64,
}

/// Possible targets.
#[derive(Debug, Clone)]
pub struct Targets {
    /// All processes.
    pub components: Vec<String>,
    /// All links.
    pub links: Vec<String>,
    /// Whether the wall clock of a process can be shifted.
    pub clocks: bool,
}

impl Targets {
    /// The targets of a cluster.
    pub fn of(cluster: &Cluster, clocks: bool) -> Self {
        let components = cluster
            .components
            .iter()
            .map(|component| component.name.clone())
            .collect();
        Self {
            components,
            links: cluster
                .links
                .iter()
                .map(|link| link.name().to_owned())
                .collect(),
            clocks,
        }
    }

    fn of_kind(&self, kind: FaultKind) -> Vec<String> {
        let named = |name: &str| {
            self.components
                .iter()
                .filter(|component| component.starts_with(name))
                .cloned()
                .collect::<Vec<_>>()
        };
        match kind {
            FaultKind::Clock if !self.clocks => Vec::new(),
            FaultKind::Stop => {
                let own = ["publisher", "replica", "component", "files"];
                own.map(named).concat()
            }
            FaultKind::Clock => [named("publisher"), named("replica")].concat(),
            FaultKind::Restore => named("mongod"),
            FaultKind::Flush | FaultKind::HangUp | FaultKind::Hush => named("redis"),
            FaultKind::Spoil | FaultKind::ForgedEvent => named("replica"),
            FaultKind::ForgedCheckIn => named("publisher"),
            // The rows are in the database, or in the file of the publisher.
            FaultKind::SpoiltRow if named("mongod").is_empty() => named("publisher"),
            FaultKind::SpoiltRow => named("mongod"),
            FaultKind::StalledReaders => [named("publisher"), named("replica")].concat(),
            kind if kind.hits_link() => self.links.clone(),
            _ => self.components.clone(),
        }
    }
}

/// A schedule of `count` faults.
pub fn plan(seed: u64, count: usize, targets: &Targets) -> Vec<Fault> {
    let mut random = Random::new(seed);
    let possible: Vec<_> = FaultKind::ALL
        .into_iter()
        .filter(|(_, (kind, ..))| !targets.of_kind(*kind).is_empty())
        .collect();
    let fault = |_| {
        let (kind, shortest, longest) = random.weighed(&possible);
        Fault {
            gap: Duration::from_millis(random.between(300, 1_000)),
            kind,
            target: random.pick(&targets.of_kind(kind)).clone(),
            hold: Duration::from_millis(random.between(shortest, longest)),
            salt: random.below(u64::MAX),
        }
    };
    (0..count).map(fault).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let components = names(&["mongod", "redis", "publisher-1", "replica-1"]);
        let links = names(&["a→b"]);
        let mut targets = Targets {
            components,
            links,
            clocks: true,
        };
        let faults = plan(7, 500, &targets);
        assert_eq!(faults, plan(7, 500, &targets));
        assert_ne!(faults, plan(8, 500, &targets));
        assert_eq!(
            faults
                .iter()
                .map(|fault| fault.kind)
                .collect::<BTreeSet<_>>()
                .len(),
            FaultKind::ALL.len()
        );
        (targets.clocks, targets.components) = (false, names(&["publisher-1", "replica-1"]));
        let impossible = [
            FaultKind::Clock,
            FaultKind::Restore,
            FaultKind::Flush,
            FaultKind::HangUp,
            FaultKind::Hush,
        ];
        assert!(
            plan(7, 500, &targets)
                .iter()
                .all(|fault| !impossible.contains(&fault.kind))
        );
    }
}
