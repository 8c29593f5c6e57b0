//! The programs know every setting in the shipped files. A misspelt variable would be ignored
//! silently.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, bail, ensure};
use e2e::testbed::dependencies::own_program;
use serde_json::Value;

use crate::{
    docker::{configuration, instructions},
    manifests::{at, file, identity, items, kustomized, renderings, secured},
};

const CONTAINER: &str = "/spec/template/spec/containers/0";

/// All variables in the help text of a program.
pub(crate) fn known(program: &str) -> anyhow::Result<BTreeSet<String>> {
    let output = Command::new(own_program(program)?).arg("--help").output()?;
    let manual = String::from_utf8(output.stdout)?;
    let names = manual
        .split("[env: ")
        .skip(1)
        .filter_map(|rest| Some(rest.split(['=', ']']).next()?.to_owned()));
    let without_flag = ["AURA_CONFIGURATION_LOG_FORMAT", "RUST_LOG"].map(str::to_owned);
    let names: BTreeSet<String> = names.chain(without_flag).collect();
    ensure!(
        names.contains("AURA_CONFIGURATION_LISTEN"),
        "the manual of the {program} has another form: {manual}"
    );
    Ok(names)
}

/// Variables with our prefixes. Others, such as `POD_NAME`, may be for another program.
pub(crate) fn is_ours(name: &str) -> bool {
    name.starts_with("AURA_") || name == "RUST_LOG"
}

#[test]
fn the_run_files_set_only_known_settings() -> anyhow::Result<()> {
    for path in ["dapr-config/dapr.yaml", "dapr-config/doors/dapr.yaml"] {
        let run = file(path)?;
        let common = names(&run[0]["common"]["env"]);
        for app in items(&run[0], "/apps") {
            let program = app["command"][0].as_str().context("no program")?;
            // Others are applications.
            let Some(program) = program.strip_prefix("target/release/") else {
                continue;
            };
            let known = known(program)?;
            let given = names(&app["env"]);
            for name in common.iter().chain(&given).filter(|name| is_ours(name)) {
                ensure!(known.contains(name), "the {program} does not know {name}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_manifests_set_only_known_settings() -> anyhow::Result<()> {
    let publisher = known("publisher")?;
    let subscriber = known("subscriber")?;
    let charted = renderings()?.into_iter().map(|(_values, objects)| objects);
    for objects in [kustomized()?, secured()?].into_iter().chain(charted) {
        // Each program takes its own settings from one common map.
        let shared = objects
            .iter()
            .find(|object| identity(object).starts_with("ConfigMap/confcast-settings"))
            .context("no settings")?;
        let shared = names(&shared["data"]);
        for name in shared.iter().filter(|name| is_ours(name)) {
            ensure!(
                publisher.contains(name) || subscriber.contains(name),
                "no program knows {name}"
            );
        }
        let workloads = objects
            .iter()
            .filter(|object| object.pointer(CONTAINER).is_some());
        for workload in workloads {
            let container = at(workload, CONTAINER)?;
            let known = match container["name"].as_str() {
                Some("publisher") => &publisher,
                Some("subscriber") => &subscriber,
                other => bail!("what does {other:?} know?"),
            };
            for variable in items(container, "/env") {
                let name = variable["name"].as_str().context("no name")?;
                ensure!(
                    !is_ours(name) || known.contains(name),
                    "the program of the {} does not know {name}",
                    identity(workload)
                );
            }
        }
    }
    Ok(())
}

#[test]
fn the_images_set_only_known_settings() -> anyhow::Result<()> {
    let instructions = instructions()?;
    for program in ["publisher", "subscriber"] {
        let known = known(program)?;
        let config = configuration(&instructions, program)?;
        let given = items(&config, "/Env").filter_map(|item| item.as_str()?.split('=').next());
        for name in given {
            ensure!(known.contains(name), "the {program} does not know {name}");
        }
    }
    Ok(())
}

fn names(map: &Value) -> BTreeSet<String> {
    map.as_object()
        .into_iter()
        .flat_map(|members| members.keys().cloned())
        .collect()
}
