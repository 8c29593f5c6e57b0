//! The same fleet as a simulation of discrete events, which knows nothing of the formula: nodes,
//! machines with processors, and one queue at each machine. Pure: the random times come from a
//! seed.
//!
//! Every job takes a random time around its cost. A hop takes its time exactly: it was measured until
//! the last of several replicas had a change, so it is that of a slow one.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    costs::Flat,
    model::{Fleet, Job},
};

/// A time of a job is between its cost minus and plus this share.
const VARIATION: f64 = 0.5;
/// Times are whole nanoseconds, so that they can be ordered.
const NANOS: f64 = 1e9;

/// A message arrives at a node. The earliest one comes first.
type Arrival = Reverse<(u64, usize, u64)>;

/// The processors of a machine, by the time at which each is free.
type Machine = BinaryHeap<Reverse<u64>>;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "nanoseconds of a short time"
)]
fn nanos(seconds: f64) -> u64 {
    (seconds * NANOS) as u64
}

/// Seconds until the last replica has it.
pub(crate) fn run(fleet: &Fleet, job: Job, seed: u64) -> f64 {
    let levels = fleet.levels();
    let mut random = StdRng::seed_from_u64(seed);
    let mut machines: HashMap<(usize, u64), Machine> = HashMap::new();
    let mut arrivals: BinaryHeap<Arrival> = BinaryHeap::from([Reverse((0, 0, 0))]);
    let mut last = 0;
    let mut around =
        |seconds: f64| nanos(seconds * random.random_range(1.0 - VARIATION..1.0 + VARIATION));
    let hop = nanos(job.hop);
    let processors = fleet.processors;
    let mut serve = |machine: (usize, u64), arrived: u64, takes: u64| {
        let free = machines.entry(machine).or_insert_with(|| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a number of processors"
            )]
            let count = processors.max(1.0) as usize;
            std::iter::repeat_n(Reverse(0), count).collect()
        });
        let free_at = free.pop().map_or(0, |Reverse(at)| at);
        let end = free_at.max(arrived) + takes;
        free.push(Reverse(end));
        end
    };
    while let Some(Reverse((at, depth, node))) = arrivals.pop() {
        let Some(level) = levels.get(depth) else {
            // A replica: the node is its number.
            let machine = (depth, node / fleet.replicas_per_machine.max(1));
            let takes = around(fleet.work_of_one(job.replica, job.bytes));
            last = last.max(serve(machine, at, takes));
            continue;
        };
        let each = if depth == 0 {
            job.publisher
        } else {
            job.subscriber
        };
        let machine = (depth, node % level.machines);
        let ready = match depth {
            0 => at,
            _ => serve(machine, at, around(job.own)),
        };
        // The children are divided evenly.
        let from = level.children * node / level.nodes;
        let to = level.children * (node + 1) / level.nodes;
        for child in from..to {
            let end = serve(machine, ready, around(fleet.work_of_one(each, job.bytes)));
            arrivals.push(Reverse((end + hop, depth + 1, child)));
        }
    }
    last as f64 / NANOS
}

impl Fleet {
    /// The time of one job on one processor: its processor time, or where that is longer its share
    /// of the network.
    fn work_of_one(&self, processor: f64, bytes: f64) -> f64 {
        processor.max(bytes / self.network * self.processors)
    }
}

/// Seconds until all replicas have a change where everything shares one machine.
pub(crate) fn on_one_machine(flat: Flat, replicas: f64, processors: u32, seed: u64) -> f64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut around = |seconds: f64| seconds * random.random_range(1.0 - VARIATION..1.0 + VARIATION);
    let mut free = vec![0.0_f64; processors.max(1) as usize];
    let mut last = 0.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of replicas"
    )]
    let replicas = replicas as usize;
    // First everything is sent, then everything is received: each job takes the processor that is
    // free first.
    for cost in [flat.above, flat.replica] {
        for _one in 0..replicas {
            let Some(next) = free.iter_mut().min_by(|one, other| one.total_cmp(other)) else {
                return last;
            };
            *next += around(cost);
            last = f64::max(last, *next);
        }
    }
    flat.hop + last
}
