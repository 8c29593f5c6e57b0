//! The names that programs and operators match on are the same in the documents and in the
//! contract.

use anyhow::ensure;
use contract::{ProblemKind, fleet::IntakeFault, formats, status::ReplicaState};

use crate::read;

#[test]
fn every_problem_type_is_described_with_its_status() -> anyhow::Result<()> {
    let page = read("docs/reference/http-api.md")?;
    for kind in ProblemKind::ALL {
        let row = format!("| `{}` | {} |", kind.as_str(), kind.status());
        ensure!(
            page.contains(&row),
            "docs/reference/http-api.md has no row {row}"
        );
    }
    let rows = page.lines().filter(|line| {
        let mut cells = line.split(" | ").skip(1);
        line.starts_with("| `") && cells.next().is_some_and(|cell| cell.parse::<u16>().is_ok())
    });
    ensure!(
        rows.count() == ProblemKind::ALL.len(),
        "a row names a type that is never sent"
    );
    Ok(())
}

#[test]
fn the_table_of_formats_has_the_numbers_that_are_written() -> anyhow::Result<()> {
    let page = read("docs/operations/upgrade.md")?;
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (name, number) = (cells.next()?, cells.next()?.parse().ok()?);
        Some((name, number))
    });
    let rows: Vec<(&str, u64)> = rows.collect();
    let written = formats::ALL.map(|format| (format.name, format.number));
    ensure!(
        rows == written,
        "docs/operations/upgrade.md: {rows:?} instead of {written:?}"
    );
    Ok(())
}

#[test]
fn every_state_and_every_intake_fault_has_a_remedy() -> anyhow::Result<()> {
    let states = read("docs/operations/states.md")?;
    let remedies = read("docs/troubleshooting.md")?;
    for state in ReplicaState::ALL {
        let name = format!("`{}`", state.as_str());
        ensure!(
            states.contains(&name),
            "docs/operations/states.md does not name {name}"
        );
    }
    for fault in IntakeFault::ALL {
        let name = format!("`{}`", fault.as_str());
        ensure!(
            states.contains(&name),
            "docs/operations/states.md does not name {name}"
        );
        ensure!(
            remedies.contains(&name),
            "docs/troubleshooting.md does not name {name}"
        );
    }
    Ok(())
}
