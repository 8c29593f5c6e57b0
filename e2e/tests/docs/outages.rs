//! The page of outages says nothing that no test shows: each cell of its table leads to a test that
//! exists, or to a fault of the campaign.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};

use crate::{markdown, read};

const PAGE: &str = "docs/operations/outages.md";
/// How the table begins.
const HEADER: &str = "| down | writes |";
/// Where the kinds of faults are.
const FAULTS: &str = "e2e/src/chaos/schedule.rs";

/// The definitions of links with a title: label, then path from the root and title.
fn definitions(page: &str) -> anyhow::Result<BTreeMap<&str, (String, &str)>> {
    let mut found = BTreeMap::new();
    for (_number, line) in markdown::prose(page) {
        let Some((label, rest)) = line
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
        else {
            continue;
        };
        let (path, title) = rest
            .split_once(' ')
            .and_then(|(path, title)| Some((path, title.strip_prefix('"')?.strip_suffix('"')?)))
            .with_context(|| format!("{line}: a path and a title"))?;
        let path = path
            .strip_prefix("../../")
            .with_context(|| format!("{line}: a path of the repository"))?;
        let before = found.insert(label, (path.to_owned(), title));
        ensure!(before.is_none(), "[{label}] is defined twice");
    }
    Ok(found)
}

/// The labels of the links in a text: `[text][label]`.
fn labels(text: &str) -> impl Iterator<Item = &str> {
    text.split("][")
        .skip(1)
        .filter_map(|rest| rest.split(']').next())
}

/// Whether the file has a test of this name, or the campaign such a fault.
fn exists(path: &str, title: &str) -> anyhow::Result<bool> {
    let source = read(path)?;
    if path == FAULTS {
        return Ok(source.contains(&format!("(Self::{title}, ")));
    }
    let Some((before, _body)) = source.split_once(&format!("fn {title}()")) else {
        return Ok(false);
    };
    // The attribute is above the function, perhaps with others in between.
    let attributes = before.rsplit("\n\n").next().unwrap_or_default();
    Ok(attributes.contains("test]") || attributes.contains("::test("))
}

#[test]
fn each_cell_about_an_outage_leads_to_a_test_that_exists() -> anyhow::Result<()> {
    let page = read(PAGE)?;
    let definitions = definitions(&page)?;
    for (label, (path, title)) in &definitions {
        ensure!(exists(path, title)?, "[{label}]: {path} has no {title}");
    }
    let rows: Vec<_> = page
        .lines()
        .skip_while(|line| !line.starts_with(HEADER))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    ensure!(rows.len() >= 10, "{} rows", rows.len());
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        ensure!(cells.len() == 6, "{} cells: {row}", cells.len());
        for cell in &cells[1..] {
            ensure!(labels(cell).next().is_some(), "nothing shows: {cell}");
        }
    }
    let used: BTreeSet<_> = labels(&page).collect();
    let defined: BTreeSet<_> = definitions.keys().copied().collect();
    ensure!(used == defined, "used {used:?}, defined {defined:?}");
    Ok(())
}

#[test]
fn a_name_that_is_no_test_is_noticed() -> anyhow::Result<()> {
    let here = "e2e/tests/docs/outages.rs";
    ensure!(exists(here, "a_name_that_is_no_test_is_noticed")?);
    for title in ["exists", "a_name_that_is", "definitions"] {
        ensure!(!exists(here, title)?, "{title}");
    }
    ensure!(exists(FAULTS, "BlackHole")? && !exists(FAULTS, "Black")?);
    Ok(())
}
