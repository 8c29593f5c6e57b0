//! Every measure of `make bench` completes and has results, at a hundredth of its size, and `make
//! scale` computes with the costs of the repository. Speed is not tested.
//!
//! A test target of its own, so that no other test uses the processor meanwhile.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, ensure};
use e2e::testbed::{dependencies, process::folder};
use serde_json::Value;

#[test]
fn every_measurement_completes() -> anyhow::Result<()> {
    let out = folder()?;
    let mut bench = Command::new(dependencies::own_program("bench")?);
    bench
        .envs([("SHARE", "0.01"), ("ROUNDS", "1"), ("ONLY", "")])
        .env("OUT", out.path());
    let run = bench.output()?;
    let output = String::from_utf8_lossy(&run.stderr);
    ensure!(
        run.status.success(),
        "{output}\n{}",
        String::from_utf8_lossy(&run.stdout)
    );
    let report: Value = serde_json::from_slice(&std::fs::read(out.path().join("bench.json"))?)?;
    let rows = report["rows"].as_array().context("rows")?;
    let measured: BTreeSet<_> = rows
        .iter()
        .filter_map(|row| row["measure"].as_u64())
        .collect();
    ensure!(measured == (1..=21).collect(), "{measured:?}\n{output}");
    for row in rows {
        // A change may be seen before its commit is answered: then it takes no time after that.
        let ours = row["ours"].as_str().context("ours")?;
        let may_be_zero = ours.contains("before the commit returned");
        let counts = |figure: f64| figure > 0.0 || (may_be_zero && figure == 0.0);
        ensure!(
            row["figure"]["median"].as_f64().is_some_and(counts),
            "{row}"
        );
        // A row with a target has a ratio, or is a figure that has none.
        let judged = row["ratio"]["median"]
            .as_f64()
            .or(row["figure"]["median"].as_f64());
        ensure!(
            row["target"].is_null() || judged.is_some_and(counts) && row["reached"].is_boolean(),
            "{row}"
        );
    }
    let costs = report["costs"].as_array().context("costs")?;
    ensure!(costs.len() > 8, "{costs:?}");
    let lines = report["curves"][0]["lines"]
        .as_array()
        .context("the curve")?;
    ensure!(
        lines.len() == 3
            && lines
                .iter()
                .all(|line| line[1].as_array().is_some_and(|points| points.len() > 1)),
        "{lines:?}"
    );
    for picture in ["ratios.svg", "replicas.svg"] {
        ensure!(
            std::fs::read_to_string(out.path().join(picture))?.starts_with("<svg"),
            "{picture}"
        );
    }
    Ok(())
}

#[test]
fn scale_computes_with_the_costs_of_the_repository() -> anyhow::Result<()> {
    let out = folder()?;
    let mut scale = Command::new(dependencies::own_program("scale")?);
    scale
        .env(
            "COSTS",
            dependencies::repository_root().join("docs/scale.json"),
        )
        .env("OUT", out.path());
    let run = scale.output()?;
    ensure!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let scaling: Value = serde_json::from_slice(&std::fs::read(out.path().join("scale.json"))?)?;
    let fleets = scaling["fleets"].as_array().context("fleets")?;
    ensure!(
        fleets
            .iter()
            .any(|one| one["fleet"]["replicas"] == 1_000_000)
    );
    ensure!(std::fs::read_to_string(out.path().join("scale.svg"))?.starts_with("<svg"));
    Ok(())
}
