//! The Helm chart: it is valid with its defaults and with every file in its folder `ci`, it is the
//! kustomize base unless a value says otherwise, and wrong values are refused by name.

mod base;
pub(crate) mod guarantees;
mod monitoring;
mod refused;

use std::collections::BTreeSet;

use anyhow::ensure;
use contract::sidecar::{BulkSubscribe, Subscription};
use serde_json::Value;

use crate::{
    manifests::{
        CHART, HELM, at, chart_values, charted, file, identity, renderings, text, the, tool,
    },
    schemas::Schemas,
};

/// The workloads of a rendering. The container has the name of its program.
fn workloads(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects
        .iter()
        .filter(|object| ["Deployment", "StatefulSet"].contains(&kind(object)))
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

#[test]
fn helm_finds_nothing_to_improve() -> anyhow::Result<()> {
    let defaults = vec!["lint", "--strict", CHART];
    let files = chart_values()?;
    let others = files
        .iter()
        .map(|file| [defaults.as_slice(), &["--values", file.as_str()]].concat());
    for arguments in std::iter::once(defaults.clone()).chain(others) {
        tool(HELM, &arguments)?;
    }
    Ok(())
}

#[test]
fn every_rendering_matches_the_schemas() -> anyhow::Result<()> {
    let schemas = Schemas::read()?;
    for (values, objects) in renderings()? {
        let mut seen = BTreeSet::new();
        for object in &objects {
            let name = identity(object);
            ensure!(seen.insert(name.clone()), "{values}: {name} twice");
            schemas
                .check(object)
                .map_err(|error| error.context(values.clone()))?;
        }
    }
    Ok(())
}

/// One version: of the workspace, the images and the chart.
#[test]
fn the_chart_installs_the_version_of_the_workspace() -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let [chart] = file(&format!("{CHART}/Chart.yaml"))?
        .try_into()
        .map_err(|_| anyhow::anyhow!("one document"))?;
    ensure!(
        chart["version"] == version && chart["appVersion"] == version,
        "{chart}"
    );
    for workload in workloads(&charted(None)?) {
        let image = text(workload, "/spec/template/spec/containers/0/image")?;
        ensure!(image.ends_with(&format!(":{version}")), "{image}");
    }
    Ok(())
}

/// A declared subscription is what the subscriber would have answered to its sidecar.
#[test]
fn declared_subscriptions_are_those_of_the_subscriber() -> anyhow::Result<()> {
    let objects = charted(Some(&format!("{CHART}/ci/declarative-values.yaml")))?;
    let declared: Vec<_> = objects
        .iter()
        .filter(|object| kind(object) == "Subscription")
        .collect();
    ensure!(declared.len() == 3, "{} subscriptions", declared.len());
    let component = text(
        the(&objects, "Component", Some("pubsub-config"))?,
        "/metadata/name",
    )?;
    for subscription in declared {
        let topic = text(subscription, "/spec/topic")?.parse()?;
        let expected = Subscription {
            bulk_subscribe: BulkSubscribe::of_interval(100),
            ..Subscription::new(component, &topic)
        };
        ensure!(
            *at(subscription, "/spec")? == serde_json::to_value(expected)?,
            "{subscription}"
        );
        ensure!(
            *at(subscription, "/scopes")? == serde_json::json!([e2e::testbed::sidecar::SUBSCRIBER]),
            "others subscribe too"
        );
    }
    Ok(())
}
