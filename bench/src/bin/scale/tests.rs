//! Formula, simulation and measured curve agree; the program runs with the costs of the repository.

use super::*;

/// The largest difference between formula and simulation, as a share.
const TOLERANCE: f64 = 0.2;
/// The largest ratio between a measured time and the formula: other work runs on the machine, and
/// the processors wait for each other.
const NEAR: f64 = 2.0;

fn repository() -> anyhow::Result<Measured> {
    Measured::read(&repository_root().join("docs/scale.json"))
}

#[test]
fn formula_and_simulation_agree() -> anyhow::Result<()> {
    let result = compute(&repository()?, Path::new("docs/scale.json"))?;
    let mut compared = 0;
    for computed in &result.fleets {
        for (name, formula, simulated) in [
            ("change", computed.change, computed.change_simulated),
            ("restart", computed.restart, computed.restart_simulated),
        ] {
            let Some(simulated) = simulated else {
                continue;
            };
            compared += 1;
            assert!(
                (formula / simulated - 1.0).abs() <= TOLERANCE,
                "{name} of {:?}: {formula} by the formula, {simulated} simulated",
                computed.fleet
            );
        }
    }
    assert!(compared >= 12, "{compared} were compared");
    for point in result
        .measured
        .iter()
        .filter(|point| point.replicas >= 1_000.0)
    {
        assert!(
            (point.computed / point.simulated - 1.0).abs() <= TOLERANCE,
            "{point:?}"
        );
    }
    Ok(())
}

#[test]
fn the_measured_curve_is_near_the_formula() -> anyhow::Result<()> {
    let result = compute(&repository()?, Path::new("docs/scale.json"))?;
    let mut compared = 0;
    for point in &result.measured {
        // Below this a change takes a time that is mostly not of the replicas.
        if point.replicas < 1_000.0 {
            continue;
        }
        compared += 1;
        let ratio = point.measured / point.computed;
        assert!((1.0 / NEAR..=NEAR).contains(&ratio), "{ratio}: {point:?}");
    }
    assert!(compared >= 6, "{compared} were compared");
    Ok(())
}

#[test]
fn every_level_serves_all_nodes_of_the_next_one() -> anyhow::Result<()> {
    let result = compute(&repository()?, Path::new("docs/scale.json"))?;
    for computed in &result.fleets {
        let levels = computed.fleet.levels();
        assert_eq!(levels[0].nodes, 1);
        assert!(levels[0].children <= computed.fleet.top);
        assert_eq!(
            levels.last().map(|level| level.children),
            Some(computed.fleet.replicas)
        );
        for pair in levels.windows(2) {
            assert_eq!(pair[0].children, pair[1].nodes);
            assert!(pair[1].children <= pair[1].nodes * computed.fleet.fan_out);
        }
    }
    Ok(())
}

#[test]
fn a_missing_cost_is_named_and_never_guessed() -> anyhow::Result<()> {
    let mut measured = repository()?;
    measured.costs.retain(|cost| cost.name != "publisher.load");
    let error = measured.costs().expect_err("a cost is missing");
    assert!(error.to_string().contains("publisher.load"), "{error}");
    assert!(!measured.is_complete());
    Ok(())
}

#[test]
fn every_cost_names_its_source() -> anyhow::Result<()> {
    for cost in repository()?.costs {
        assert!(cost.source.starts_with("make bench, measure 1"), "{cost:?}");
    }
    Ok(())
}
