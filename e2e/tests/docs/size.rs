//! The first two pages stay short, so that somebody reads them.

use anyhow::ensure;

use crate::read;

#[test]
fn the_readme_is_read_in_five_minutes() -> anyhow::Result<()> {
    let readme = read("README.md")?;
    let lines = readme.lines().count();
    ensure!(
        lines <= 200,
        "README.md has {lines} lines, and 200 are enough"
    );
    ensure!(
        readme.len() <= 9 << 10,
        "README.md has {} bytes, at most 9 KiB",
        readme.len()
    );
    Ok(())
}

#[test]
fn the_architecture_is_one_sitting() -> anyhow::Result<()> {
    let bytes = read("ARCHITECTURE.md")?.len();
    ensure!(
        bytes <= 14 << 10,
        "ARCHITECTURE.md has {bytes} bytes, at most 14 KiB"
    );
    Ok(())
}
