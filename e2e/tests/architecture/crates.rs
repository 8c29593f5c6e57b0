//! Dependencies between crates, read from `cargo metadata`. Features make no difference: an
//! optional dependency counts as a dependency.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Context, ensure};
use e2e::testbed::dependencies::repository_root;
use serde::Deserialize;

/// What stands between a crate and the crates that it uses, in `ARCHITECTURE.md`.
const ARROW: &str = "─▶";
/// What follows a crate that only tests use.
const OF_TESTS: &str = "(tests)";

/// Libraries that only a few crates may depend on.
const LIBRARIES: [(&str, &[&str]); 3] = [
    // `journal` and `projection` write databases of their own, which are no stores of configuration.
    (
        "mongodb",
        &[
            "mongo-json",
            "publisher",
            "journal",
            "projection",
            "e2e",
            "bench",
            "run-dapr",
        ],
    ),
    // `journal` sends commands of its own, over connections of `broker`.
    ("redis", &["broker", "journal", "bench"]),
    // `subscriber` has it in tests alone: the client that asks its API.
    ("dapr", &["publisher", "subscriber", "bench"]),
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

/// The crates of the workspace that a crate uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arrows {
    /// Used by the library or the programs.
    product: BTreeSet<String>,
    /// Used by nothing but tests.
    tests: BTreeSet<String>,
}

impl Package {
    fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::default();
        for dependency in self.dependencies.iter().filter(|it| it.path.is_some()) {
            let list = if dependency.is_of_tests() {
                &mut arrows.tests
            } else {
                &mut arrows.product
            };
            list.insert(dependency.name.clone());
        }
        arrows
    }
}

/// The arrows as `ARCHITECTURE.md` lists them: a line for each crate.
fn listed_arrows(page: &str) -> BTreeMap<&str, Arrows> {
    let lines = page.lines().filter_map(|line| line.split_once(ARROW));
    lines
        .map(|(name, crates)| {
            let mut arrows = Arrows::default();
            for entry in crates.split_whitespace() {
                match entry.strip_suffix(OF_TESTS) {
                    Some(entry) => arrows.tests.insert(entry.to_owned()),
                    None => arrows.product.insert(entry.to_owned()),
                };
            }
            (name.trim(), arrows)
        })
        .collect()
}

#[test]
fn crates_use_exactly_the_crates_that_the_architecture_lists() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(repository_root().join("ARCHITECTURE.md"))?;
    let mut listed = listed_arrows(&page);
    for package in packages()? {
        let name = &package.name;
        let allowed = listed.remove(name.as_str()).with_context(|| {
            format!("the crate {name} is new: add it to the arrows of ARCHITECTURE.md")
        })?;
        let found = package.arrows();
        ensure!(
            found == allowed,
            "{name} uses {found:?}, and ARCHITECTURE.md lists {allowed:?}: move the code that needs the crate, or \
             change the list, with the reason"
        );
    }
    ensure!(
        listed.is_empty(),
        "ARCHITECTURE.md lists crates that do not exist: {:?}",
        listed.keys()
    );
    Ok(())
}

#[test]
fn arrows_are_read_line_by_line() {
    let listed = listed_arrows("text\na   ─▶\nb ─▶ a c(tests)\n");
    assert_eq!(listed["a"], Arrows::default());
    assert_eq!(listed["b"].product, BTreeSet::from(["a".to_owned()]));
    assert_eq!(listed["b"].tests, BTreeSet::from(["c".to_owned()]));
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
