//! The names that programs and operators match on are the same in the documents and in the
//! contract, and the commands that documents name exist.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use contract::{ProblemKind, fleet::IntakeFault, formats, status::ReplicaState};

use crate::{help, links::documents, read, reference::commands};

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

/// The words behind each `confcast` that begins code or a line, at most two.
fn uses(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let lines = text.lines().flat_map(|line| line.trim_start().split('`'));
    lines
        .filter_map(|code| code.strip_prefix("confcast "))
        // The domain of a hash or signature, with its version.
        .filter(|rest| !rest.ends_with(" 1"))
        .filter_map(|rest| {
            let mut words = rest.split(|letter: char| letter != '-' && !letter.is_alphanumeric());
            let next = |word: &&str| !word.is_empty() && !word.starts_with('-');
            Some((words.next()?, words.next().filter(next)))
        })
        .filter(|(command, _)| command.starts_with(|letter: char| letter.is_ascii_lowercase()))
}

#[test]
fn every_command_that_a_document_names_exists() -> anyhow::Result<()> {
    let manual = help("confcast", &[])?;
    let mut known = BTreeMap::new();
    for name in commands(&manual) {
        let inner = commands(&help("confcast", &[&name])?);
        known.insert(name, inner);
    }
    let mut found = 0;
    for path in documents()? {
        let path = path.to_str().context("a path in UTF-8")?;
        let text = read(path)?;
        for (command, next) in uses(&text) {
            found += 1;
            let inner = known.get(command);
            ensure!(
                inner.is_some() || manual.contains(&format!("alias: {command}]")),
                "{path}: there is no `confcast {command}`"
            );
            // A command with commands of its own is named with one of them, or alone.
            let is_one = |next: &str| {
                inner.is_none_or(|inner| inner.is_empty() || inner.iter().any(|name| name == next))
            };
            ensure!(
                next.is_none_or(is_one),
                "{path}: there is no `confcast {command} {}`",
                next.unwrap_or_default()
            );
        }
    }
    ensure!(found > 100, "{found} uses only");
    let made_up = uses("`confcast replicas`: x\nconfcast keys sing").collect::<Vec<_>>();
    ensure!(
        made_up == [("replicas", None), ("keys", Some("sing"))],
        "{made_up:?}"
    );
    Ok(())
}
