//! The codemap of `ARCHITECTURE.md` names every module of the crates in it, and no other.
//!
//! A module is a file or a folder directly below `src`. The text of a source file is never read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, ensure};
use e2e::testbed::dependencies::repository_root;

/// Files and folders below `src` that are roots of a target, or tests.
const NOT_MODULES: [&str; 4] = ["lib", "main", "bin", "tests"];

/// The modules of each crate, as the rows of the codemap name them: crate and module are the first
/// two cells, in backticks. A row without a crate belongs to the crate above it.
fn named_modules(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut modules = BTreeMap::<String, BTreeSet<String>>::new();
    let mut crate_name = String::new();
    let codemap = page.split("\n## ").find(|part| part.starts_with("Codemap"));
    for row in codemap.unwrap_or_default().lines() {
        let mut cells = row.split('|').skip(1).map(in_backticks);
        let (Some(crates), Some(names)) = (cells.next(), cells.next()) else {
            continue;
        };
        if let Some(first) = crates.into_iter().next() {
            crate_name = first;
        }
        if !crate_name.is_empty() {
            modules.entry(crate_name.clone()).or_default().extend(names);
        }
    }
    modules
}

fn in_backticks(cell: &str) -> Vec<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// The modules that a crate has.
fn modules(crate_name: &str) -> anyhow::Result<BTreeSet<String>> {
    let folder = repository_root().join(crate_name).join("src");
    let mut modules = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        modules.extend(
            name.filter(|name| !NOT_MODULES.contains(name))
                .map(str::to_owned),
        );
    }
    Ok(modules)
}

#[test]
fn the_codemap_names_every_module_and_no_other() -> anyhow::Result<()> {
    let page = fs::read_to_string(repository_root().join("ARCHITECTURE.md"))?;
    let named = named_modules(&page);
    ensure!(named.len() > 8, "the codemap has another form: {named:?}");
    for (crate_name, named) in named {
        let existing = modules(&crate_name)?;
        ensure!(
            named == existing,
            "the codemap of ARCHITECTURE.md does not name the modules of {crate_name}: missing {:?}, too many {:?}",
            existing.difference(&named),
            named.difference(&existing)
        );
    }
    Ok(())
}

#[test]
fn a_row_without_a_crate_belongs_to_the_crate_above_it() {
    let page = "# A\n\n## Codemap\n\n| crate | module | |\n|---|---|---|\n| `a` | `b` `c` | `x` |\n| | `d` | y |\n\n## Z\n| `e` | `f` |\n";
    let expected = ["b", "c", "d"].map(str::to_owned);
    assert_eq!(
        named_modules(page),
        BTreeMap::from([("a".to_owned(), BTreeSet::from(expected))])
    );
}
