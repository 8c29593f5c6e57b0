//! The formula: how long a change, or a start of everything, takes in a tree of subscribers. Pure.
//!
//! A **stage** is one level that serves the next one. Its jobs arrive at a machine between two
//! times, and each machine serves them in the order of arrival on all of its processors. The last
//! job ends at
//!
//! ```text
//! max(first arrival + all work of the machine, last arrival + work of the last node)
//! ```
//!
//! The first term holds where the machine is the limit, the second one where the level above is.
//! Work is processor time divided by processors, or bytes divided by the rate of the network,
//! whichever is longer. The replicas of the last level have machines of their own, or share one.

use serde::Serialize;

use crate::costs::{Costs, Flat};

/// The shape of a fleet and its machines.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fleet {
    /// Replicas.
    pub(crate) replicas: u64,
    /// Children of one subscriber.
    pub(crate) fan_out: u64,
    /// Most children of the publisher.
    pub(crate) top: u64,
    /// Machines for the subscribers.
    pub(crate) machines: u64,
    /// Processors of each machine, of the publisher's too.
    pub(crate) processors: f64,
    /// Replicas that share one machine.
    pub(crate) replicas_per_machine: u64,
    /// Rate of the network of a machine, in bytes per second.
    pub(crate) network: f64,
    /// Seconds between two check-ins of a replica.
    pub(crate) check_in: f64,
}

/// One level of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Level {
    /// Its nodes: 1 at the publisher.
    pub(crate) nodes: u64,
    /// Its children, all nodes together.
    pub(crate) children: u64,
    /// Its machines.
    pub(crate) machines: u64,
}

/// What one job of a level costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// Processor time of the publisher.
    pub(crate) publisher: f64,
    /// Processor time of a subscriber.
    pub(crate) subscriber: f64,
    /// Processor time of a subscriber before it serves its first child.
    pub(crate) own: f64,
    /// Processor time of the receiver, where it is a replica.
    pub(crate) replica: f64,
    /// Bytes.
    pub(crate) bytes: f64,
    /// Time between two levels where nothing is queued.
    pub(crate) hop: f64,
}

/// A level under one step of the fleet.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Use {
    /// The level.
    pub(crate) level: Level,
    /// Processor time of each of its machines, in seconds.
    pub(crate) processor: f64,
    /// Bytes at each of its machines, to the level below.
    pub(crate) bytes: f64,
}

impl Fleet {
    /// The levels from the publisher down: as few as the two limits of children allow.
    pub(crate) fn levels(&self) -> Vec<Level> {
        let mut widths = vec![self.replicas];
        let mut lowest = self.replicas;
        while lowest > self.top {
            lowest = lowest.div_ceil(self.fan_out);
            widths.push(lowest);
        }
        // From the last level up: how many nodes serve how many children.
        let mut levels = Vec::new();
        let subscribers: u64 = widths.iter().skip(1).sum();
        for (index, children) in widths.iter().enumerate() {
            let nodes = widths.get(index + 1).copied().unwrap_or(1);
            // Machines are divided among the levels by their nodes.
            let machines = match index + 1 < widths.len() {
                true => (self.machines * nodes).div_ceil(subscribers).min(nodes),
                false => 1,
            };
            levels.push(Level {
                nodes,
                children: *children,
                machines,
            });
        }
        levels.reverse();
        levels
    }

    /// The time until all replicas have it, and what each level used.
    pub(crate) fn spread(&self, job: Job) -> (f64, Vec<Use>) {
        let levels = self.levels();
        let (mut first, mut last) = (0.0, 0.0);
        let mut uses = Vec::new();
        for (index, level) in levels.iter().enumerate() {
            let each = if index == 0 {
                job.publisher
            } else {
                job.subscriber
            };
            let per_machine = level.children as f64 / level.machines as f64;
            let per_node = level.children as f64 / level.nodes as f64;
            let own = if index == 0 { 0.0 } else { job.own };
            let nodes = level.nodes as f64 / level.machines as f64;
            let work =
                |nodes: f64, jobs: f64| self.duration(nodes * own + jobs * each, jobs * job.bytes);
            let end = f64::max(
                first + work(nodes, per_machine),
                last + own + work(0.0, per_node),
            );
            // The first child is served as soon as one job is done.
            first += own + each + job.hop;
            last = end + job.hop;
            uses.push(Use {
                level: *level,
                processor: nodes * own + per_machine * each,
                bytes: per_machine * job.bytes,
            });
        }
        // The replicas themselves. The last one of a machine waits for all others there only where
        // they arrive at once.
        let shared = self.replicas_per_machine.min(self.replicas) as f64;
        let all = self.duration(shared * job.replica, shared * job.bytes);
        (f64::max(first + all, last + job.replica), uses)
    }

    fn duration(&self, processor: f64, bytes: f64) -> f64 {
        f64::max(processor / self.processors, bytes / self.network)
    }
}

/// The time until all of N replicas have a change where everything shares one machine, as in
/// measure 12: nothing runs beside anything else beyond its processors.
pub(crate) fn on_one_machine(flat: Flat, replicas: f64, processors: f64) -> f64 {
    flat.hop + replicas * (flat.above + flat.replica) / processors
}

impl Costs {
    /// A change.
    pub(crate) fn change(&self) -> Job {
        Job {
            publisher: self.publisher_event,
            subscriber: self.subscriber_event,
            // Part of the measured cost of its events.
            own: 0.0,
            replica: self.replica_event,
            bytes: self.event_bytes,
            hop: self.hop,
        }
    }

    /// A load of everything, after a restart of everything. A subscriber serves loads once its own
    /// is done.
    pub(crate) fn restart(&self) -> Job {
        Job {
            publisher: self.publisher_load,
            subscriber: self.subscriber_load,
            own: self.replica_load,
            replica: self.replica_load,
            bytes: self.load_bytes,
            hop: self.hop,
        }
    }
}
