//! The Deployments to copy, of services that read by the ways of Dapr: valid, restricted, and of one piece with
//! the base.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    helm::guarantees::restricted,
    kubernetes::{KNOWN_ANNOTATIONS, matches},
    manifests::{at, charted, file, files, items, kustomized, named_values, text, the},
    schemas::Schemas,
    settings::{is_ours, known},
};

const POD: &str = "/spec/template/spec";
const COMPONENT: &str = "confcast-component";
const PLUGGABLE: &str = "dapr.io/pluggable-components";

fn examples() -> anyhow::Result<Vec<(String, Value)>> {
    let paths = files("deploy/examples")?;
    ensure!(paths.len() == 2, "{paths:?}");
    paths
        .into_iter()
        .map(|path| {
            Ok((
                path.clone(),
                the(&file(&path)?, "Deployment", None)?.clone(),
            ))
        })
        .collect()
}

fn container<'a>(workload: &'a Value, name: &str) -> Option<&'a Value> {
    items(workload, "/spec/template/spec/containers").find(|container| container["name"] == name)
}

#[test]
fn the_examples_are_valid_and_restricted() -> anyhow::Result<()> {
    let schemas = Schemas::read()?;
    for (path, workload) in examples()? {
        schemas.check(&workload).with_context(|| path.clone())?;
        restricted(at(&workload, POD)?).with_context(|| path.clone())?;
        let labels = at(&workload, "/spec/template/metadata/labels")?;
        ensure!(matches(
            at(&workload, "/spec/selector/matchLabels")?,
            labels
        ));
    }
    Ok(())
}

/// Both ignore silently what they do not know.
#[test]
fn the_examples_set_only_what_dapr_and_the_programs_know() -> anyhow::Result<()> {
    for (path, workload) in examples()? {
        let annotations = at(&workload, "/spec/template/metadata/annotations")?;
        for name in annotations.as_object().into_iter().flat_map(|it| it.keys()) {
            ensure!(
                name == PLUGGABLE || KNOWN_ANNOTATIONS.contains(&name.as_str()),
                "{path}: {name}"
            );
        }
        for program in [COMPONENT, "subscriber"] {
            let Some(container) = container(&workload, program) else {
                continue;
            };
            let known = known(program)?;
            let names = named_values(at(container, "/env")?);
            for name in names.keys().filter(|name| is_ours(name)) {
                ensure!(
                    known.contains(name),
                    "{path}: {program} does not know {name}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn the_examples_reach_the_publisher_and_are_reached() -> anyhow::Result<()> {
    let objects = kustomized()?;
    let policy = the(&objects, "NetworkPolicy", Some("confcast-publisher"))?;
    let service = the(&objects, "Service", Some("confcast-publisher"))?;
    let url = format!(
        "http://{}:{}",
        text(service, "/metadata/name")?,
        at(service, "/spec/ports/0/port")?
    );
    let mut ways = BTreeSet::new();
    for (path, workload) in examples()? {
        let labels = at(&workload, "/spec/template/metadata/labels")?;
        let admitted = items(policy, "/spec/ingress/0/from")
            .any(|from| matches(&from["podSelector"]["matchLabels"], labels));
        ensure!(admitted, "{path}: the publisher does not admit {labels}");
        let annotations = at(&workload, "/spec/template/metadata/annotations")?;
        let (own, reads) = match annotations[PLUGGABLE].as_str() {
            Some(name) => (container(&workload, name), "component"),
            None => (container(&workload, "subscriber"), "configuration"),
        };
        let own = own.with_context(|| format!("{path}: no container"))?;
        let settings = named_values(at(own, "/env")?);
        ensure!(
            settings["AURA_CONFIGURATION_API_URL"] == url,
            "{path}: {settings:?}"
        );
        let port = at(own, "/ports/0/containerPort")?;
        ensure!(
            settings["AURA_CONFIGURATION_LISTEN"] == format!("0.0.0.0:{port}"),
            "{path}: probes ask {port}"
        );
        if reads == "configuration" {
            let service = container(&workload, "my-service").context("no service")?;
            let given = named_values(at(service, "/env")?);
            let expected = &settings["AURA_CONFIGURATION_DAPR_API_LISTEN"];
            for port in ["DAPR_GRPC_PORT", "DAPR_HTTP_PORT"] {
                ensure!(
                    *expected == format!("127.0.0.1:{}", given[port]),
                    "{path}: {port}"
                );
            }
        }
        ways.insert(reads);
    }
    ensure!(
        ways == BTreeSet::from(["component", "configuration"]),
        "{ways:?}"
    );
    Ok(())
}

/// The Component files of the chart are those that are shipped for one machine, besides names and scopes.
#[test]
fn the_chart_makes_the_component_files() -> anyhow::Result<()> {
    let values = format!("{}/ci/component-values.yaml", crate::manifests::CHART);
    let objects = charted(Some(&values))?;
    for (shipped, name) in [("pubsub", "pubsub-config"), ("state", "channels")] {
        let file = file(&format!("components/confcast/{shipped}.yaml"))?;
        let shipped = the(&file, "Component", None)?;
        let made = the(&objects, "Component", Some(name))?;
        ensure!(made["spec"] == shipped["spec"], "{made} and {shipped}");
        ensure!(
            items(made, "/scopes").any(|id| id == "my-service"),
            "{made}"
        );
    }
    let components = objects
        .iter()
        .filter(|object| object["kind"] == "Component");
    ensure!(components.count() == 3, "three files");
    ensure!(
        !(charted(None)?.iter())
            .filter_map(|object| object.pointer("/spec/type")?.as_str())
            .any(|kind| kind.ends_with(".confcast")),
        "without a value there is none"
    );
    Ok(())
}
