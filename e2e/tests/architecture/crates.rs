//! Dependencies between crates, read from `cargo metadata`. Features make no difference: an
//! optional dependency counts as a dependency.

use std::process::Command;

use anyhow::{Context, ensure};
use e2e::testbed::dependencies::repository_root;
use serde::Deserialize;

/// Each crate of the workspace and the crates of the workspace that it may depend on. Every crate
/// may depend on `contract`.
const ARROWS: [(&str, &[&str]); 14] = [
    ("contract", &[]),
    ("state", &[]),
    ("broker", &[]),
    ("client", &[]),
    ("service", &[]),
    ("replica", &["state", "client", "broker"]),
    ("publisher", &["state", "broker", "service"]),
    ("subscriber", &["replica", "service"]),
    ("cli", &["client", "broker"]),
    ("configs", &[]),
    ("examples", &["replica", "configs"]),
    ("e2e", &["client"]),
    (
        "bench",
        &["e2e", "client", "publisher", "replica", "state", "broker"],
    ),
    ("run-dapr", &["e2e", "client"]),
];

/// The same for dev-dependencies.
const ARROWS_OF_TESTS: [(&str, &[&str]); 1] = [("e2e", &["replica"])];

/// Libraries that only a few crates may depend on.
const LIBRARIES: [(&str, &[&str]); 3] = [
    ("mongodb", &["publisher", "e2e", "bench", "run-dapr"]),
    ("redis", &["broker", "bench"]),
    ("dapr", &["publisher", "bench"]),
];

/// Crates without input and output, and libraries that would add some.
const PURE: [&str; 2] = ["contract", "state"];
const NOT_PURE: [&str; 5] = ["tokio", "actix-web", "reqwest", "tonic", "futures-util"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None`: a dependency of the library or the programs. Otherwise `dev` or `build`.
    kind: Option<String>,
    /// Only dependencies inside of the workspace have a path.
    path: Option<String>,
}

impl Dependency {
    fn is_of_tests(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

fn packages() -> anyhow::Result<Vec<Package>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(repository_root())
        .output()
        .context("running cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    Ok(metadata.packages)
}

fn allowed(list: &[(&str, &'static [&'static str])], package: &str) -> &'static [&'static str] {
    list.iter()
        .find(|(name, _)| *name == package)
        .map_or(&[], |(_, crates)| *crates)
}

#[test]
fn every_crate_is_in_the_dependency_list() -> anyhow::Result<()> {
    for package in packages()? {
        ensure!(
            ARROWS.iter().any(|(name, _)| *name == package.name),
            "the crate {} is new: add it to ARROWS and to ARCHITECTURE.md",
            package.name
        );
    }
    Ok(())
}

#[test]
fn crates_depend_only_on_the_crates_that_the_list_allows() -> anyhow::Result<()> {
    for package in packages()? {
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.path.is_some())
        {
            let of_tests = dependency.is_of_tests()
                && allowed(&ARROWS_OF_TESTS, &package.name).contains(&dependency.name.as_str());
            ensure!(
                dependency.name == "contract"
                    || allowed(&ARROWS, &package.name).contains(&dependency.name.as_str())
                    || of_tests,
                "{} must not depend on {}: move the code that needs it, or allow the arrow in ARROWS and in \
                 ARCHITECTURE.md",
                package.name,
                dependency.name
            );
        }
    }
    Ok(())
}

#[test]
fn only_the_owner_crates_depend_on_server_libraries() -> anyhow::Result<()> {
    for package in packages()? {
        for (library, owners) in LIBRARIES {
            let depends = package
                .dependencies
                .iter()
                .any(|dependency| dependency.name == library);
            ensure!(
                !depends || owners.contains(&package.name.as_str()),
                "{} must not depend on the library {library}: use one of {owners:?}",
                package.name
            );
        }
    }
    Ok(())
}

#[test]
fn the_contract_and_the_state_need_no_runtime() -> anyhow::Result<()> {
    for package in packages()?
        .iter()
        .filter(|package| PURE.contains(&package.name.as_str()))
    {
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| !dependency.is_of_tests())
        {
            ensure!(
                !NOT_PURE.contains(&dependency.name.as_str()),
                "{} must not depend on {}: input and output belong to the crates that use it",
                package.name,
                dependency.name
            );
        }
    }
    Ok(())
}
