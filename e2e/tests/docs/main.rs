//! The documents are checked where a program can check them: links, references and names.
//!
//! Nothing here starts a server. The commands of the documents are run by the target `e2e`, and
//! their Rust is compiled by the crates `examples` and `publisher`.

mod links;
mod markdown;
mod names;
mod outages;
mod reference;
mod security;
mod size;

use std::path::Path;

use anyhow::Context;
use e2e::testbed::dependencies;

/// The root of the repository.
fn root() -> &'static Path {
    dependencies::repository_root()
}

/// Reads a document, by its path from the root of the repository.
fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("reading {path}"))
}

/// What a program prints for these arguments, without any setting of the environment.
fn help(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = std::process::Command::new(dependencies::own_program(program)?)
        .args(arguments)
        .arg("--help")
        .env_clear()
        .output()?;
    anyhow::ensure!(output.status.success(), "{program} {arguments:?} --help");
    Ok(String::from_utf8(output.stdout)?)
}
