//! `make scale [COSTS=file] [PROCESSORS=2] [FAN_OUT=100] [TOP=1000] [PER_MACHINE=20] [GIGABITS=10]
//! [CHECK_IN=10]`: how long a change and a restart of everything take for 10³ to 10⁶ replicas in a
//! tree of subscribers, computed from measured costs.
//!
//! Costs are those of the last `make bench` of measures 12 and 17 in `target/bench/`, else those in
//! `docs/scale.json`. A simulation of discrete events checks the formula, and the measured curve
//! checks both. Prints a table; `OUT` (`target/scale/`) gets it as JSON and as a picture. It
//! measures nothing.

mod costs;
mod model;
mod picture;
mod simulation;
mod table;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use costs::{Costs, Measured};
use e2e::testbed::{dependencies::repository_root, environment::number_or};
use model::{Fleet, Use};
use serde::Serialize;

/// Numbers of replicas.
const SIZES: [u64; 7] = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000];
/// The largest size that is simulated.
const SIMULATED: u64 = 10_000;
/// Machines for the subscribers.
const MACHINES: [u64; 3] = [1, 10, 100];
/// The transports of the measured curve.
const TRANSPORTS: [&str; 3] = ["local", "pubsub", "feed"];

/// Everything that is computed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Scaling {
    /// The file of the costs.
    costs_of: String,
    costs: Costs,
    /// Each size on each number of machines.
    fleets: Vec<Computed>,
    /// The largest difference between formula and simulation, as a share.
    largest_difference: f64,
    /// The measured curve beside the formula.
    measured: Vec<Checked>,
}

/// One fleet.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Computed {
    fleet: Fleet,
    /// Seconds until all replicas have a change.
    change: f64,
    /// The same, simulated; absent for large fleets.
    change_simulated: Option<f64>,
    /// What each level uses for one change.
    change_uses: Vec<Use>,
    /// Changes per second that the busiest machine can pass on.
    changes_per_second: f64,
    /// Seconds until all are loaded after a restart of everything.
    restart: f64,
    /// The same, simulated.
    restart_simulated: Option<f64>,
    /// What each level uses for the loads.
    restart_uses: Vec<Use>,
    /// The share of the publisher's processors that check-ins take.
    publisher_check_ins: f64,
    /// The share of the processors of the busiest machine of subscribers that check-ins take.
    subscriber_check_ins: f64,
}

/// A point of the measured curve.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked {
    transport: &'static str,
    replicas: f64,
    /// Seconds, the median of the measure.
    measured: f64,
    /// Seconds, by the formula.
    computed: f64,
    /// Seconds, by the simulation.
    simulated: f64,
}

fn main() -> anyhow::Result<()> {
    let (path, measured) = costs()?;
    let result = compute(&measured, &path)?;
    let out = std::env::var_os("OUT").filter(|folder| !folder.is_empty());
    let out = out.map_or_else(|| repository_root().join("target/scale"), PathBuf::from);
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("scale.json"), serde_json::to_vec_pretty(&result)?)?;
    picture::draw(&result, &out.join("scale.svg")).context("drawing")?;
    writeln!(
        std::io::stdout(),
        "{}\n\nscale.json and scale.svg: {}",
        table::text(&result),
        out.display()
    )?;
    Ok(())
}

/// The costs: of a named file, of the last run of `make bench`, or those of the repository.
fn costs() -> anyhow::Result<(PathBuf, Measured)> {
    if let Some(named) = std::env::var_os("COSTS").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(named);
        return Ok((path.clone(), Measured::read(&path)?));
    }
    let last = repository_root().join("target/bench/bench.json");
    if let Ok(measured) = Measured::read(&last)
        && measured.is_complete()
    {
        return Ok((last, measured));
    }
    let path = repository_root().join("docs/scale.json");
    Ok((path.clone(), Measured::read(&path)?))
}

fn compute(measured: &Measured, path: &Path) -> anyhow::Result<Scaling> {
    let costs = measured.costs()?;
    let gigabits: f64 = number_or("GIGABITS", 10.0)?;
    let fleet = Fleet {
        replicas: 0,
        fan_out: number_or("FAN_OUT", 100)?,
        top: number_or("TOP", 1_000)?,
        machines: 0,
        processors: number_or("PROCESSORS", f64::from(measured.machine.processors))?,
        replicas_per_machine: number_or("PER_MACHINE", 20)?,
        network: gigabits * 1e9 / 8.0,
        check_in: number_or("CHECK_IN", 10.0)?,
    };
    anyhow::ensure!(
        fleet.fan_out > 1 && fleet.top > 0 && fleet.processors >= 1.0 && gigabits > 0.0,
        "FAN_OUT is at least 2, TOP and PROCESSORS at least 1, and GIGABITS more than 0"
    );
    let fleets = SIZES.iter().flat_map(|replicas| {
        MACHINES.map(|machines| {
            let fleet = Fleet {
                replicas: *replicas,
                machines,
                ..fleet
            };
            computed(fleet, &costs)
        })
    });
    let mut points = Vec::new();
    for transport in TRANSPORTS {
        let flat = measured.flat(transport)?;
        let processors = measured.machine.processors;
        for (replicas, spread) in measured.line(transport)? {
            points.push(Checked {
                transport,
                replicas: *replicas,
                measured: spread.median,
                computed: model::on_one_machine(flat, *replicas, f64::from(processors)),
                simulated: simulation::on_one_machine(flat, *replicas, processors, 1),
            });
        }
    }
    let fleets: Vec<Computed> = fleets.collect();
    let differences = fleets.iter().flat_map(|computed| {
        [
            (computed.change, computed.change_simulated),
            (computed.restart, computed.restart_simulated),
        ]
    });
    let differences =
        differences.filter_map(|(formula, simulated)| Some((formula / simulated? - 1.0).abs()));
    Ok(Scaling {
        costs_of: path.display().to_string(),
        costs,
        largest_difference: differences.fold(0.0, f64::max),
        fleets,
        measured: points,
    })
}

fn computed(fleet: Fleet, costs: &Costs) -> Computed {
    let (change, change_uses) = fleet.spread(costs.change());
    let (restart, restart_uses) = fleet.spread(costs.restart());
    let simulated =
        |job| (fleet.replicas <= SIMULATED).then(|| simulation::run(&fleet, job, fleet.replicas));
    let busiest = |work: &dyn Fn(&Use) -> f64| change_uses.iter().map(work).fold(0.0, f64::max);
    let processor = busiest(&|used| used.processor) / fleet.processors;
    let network = busiest(&|used| used.bytes) / fleet.network;
    let share = |level: &Use, cost: f64| {
        let children = level.level.children as f64 / level.level.machines as f64;
        children * cost / fleet.check_in / fleet.processors
    };
    let mut levels = change_uses.iter();
    let publisher_check_ins = levels
        .next()
        .map_or(0.0, |level| share(level, costs.publisher_check_in));
    let subscriber_check_ins = levels
        .map(|level| share(level, costs.subscriber_check_in))
        .fold(0.0, f64::max);
    Computed {
        fleet,
        change,
        change_simulated: simulated(costs.change()),
        changes_per_second: 1.0 / processor.max(network),
        restart,
        restart_simulated: simulated(costs.restart()),
        publisher_check_ins,
        subscriber_check_ins,
        change_uses,
        restart_uses,
    }
}

#[cfg(test)]
mod tests;
