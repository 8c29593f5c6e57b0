//! The threat model in `SECURITY.md`: each row names tests, and each of them exists.

use std::{fs, path::Path};

use anyhow::ensure;

use crate::{read, root};

/// All Rust sources below a folder, without what was built.
fn sources(folder: &Path, out: &mut String) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == "target" || name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            sources(&path, out)?;
        } else if name.ends_with(".rs") {
            out.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[test]
fn each_row_of_the_threat_model_has_tests_that_exist() -> anyhow::Result<()> {
    let mut code = String::new();
    sources(root(), &mut code)?;
    let page = read("SECURITY.md")?;
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let mut count = 0;
    // After the head and the line below it.
    for row in rows.skip(1) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        ensure!(cells.len() == 5, "a row has {} cells: {row}", cells.len());
        let tests: Vec<_> = cells[4].split('`').skip(1).step_by(2).collect();
        ensure!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let exists = code.contains(&format!("fn {test}("));
            ensure!(exists, "SECURITY.md names a test that is not there: {test}");
        }
        count += 1;
    }
    ensure!(count > 15, "the table was not found");
    Ok(())
}
