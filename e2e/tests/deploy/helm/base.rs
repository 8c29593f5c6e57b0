//! With its defaults the chart renders the kustomize base; with TLS and signatures it renders
//! `deploy/secured`. What differs is listed here, and nowhere else.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::kind;
use crate::manifests::{CHART, charted, collections, identity, kustomized, secured};

#[test]
fn with_its_defaults_the_chart_is_the_base() -> anyhow::Result<()> {
    same(&charted(None)?, &kustomized()?)
}

#[test]
fn with_tls_and_signatures_the_chart_is_the_secured_base() -> anyhow::Result<()> {
    let values = format!("{CHART}/ci/secured-values.yaml");
    same(&charted(Some(&values))?, &secured()?)
}

fn same(chart: &[Value], base: &[Value]) -> anyhow::Result<()> {
    let served = collections()?;
    let chart: BTreeMap<String, Value> = chart
        .iter()
        .map(|object| {
            let mut object = object.clone();
            chart_alone(&mut object, &served.iter().cloned().collect::<Vec<_>>())
                .with_context(|| identity(&object))?;
            normalize(&mut object);
            Ok((identity(&object), object))
        })
        .collect::<anyhow::Result<_>>()?;
    let base: BTreeMap<String, Value> = base
        .iter()
        .map(|object| {
            let mut object = object.clone();
            normalize(&mut object);
            (identity(&object), object)
        })
        .collect();
    let names = |of: &BTreeMap<String, Value>| of.keys().cloned().collect::<Vec<_>>();
    ensure!(
        names(&chart) == names(&base),
        "chart {:?}, base {:?}",
        names(&chart),
        names(&base)
    );
    for (name, object) in &chart {
        let mut different = Vec::new();
        differences(object, &base[name], String::new(), &mut different);
        ensure!(
            different.is_empty(),
            "{name}: chart and base differ:\n{}",
            different.join("\n")
        );
    }
    Ok(())
}

/// Removes what the chart has and the base has not.
fn chart_alone(object: &mut Value, served: &[String]) -> anyhow::Result<()> {
    match kind(object) {
        // The base lets pods out to everywhere: where MongoDB and Redis are is known to an overlay.
        "NetworkPolicy" => {
            let spec = object["spec"].as_object_mut().context("no spec")?;
            ensure!(spec["policyTypes"] == json!(["Ingress", "Egress"]));
            spec.insert("policyTypes".into(), json!(["Ingress"]));
            spec.remove("egress").context("no egress")?;
        }
        "Deployment" | "StatefulSet" => {
            let template = &mut object["spec"]["template"];
            // In the place of a name of the ConfigMap that ends in its hash.
            template["metadata"]["annotations"]
                .as_object_mut()
                .context("no annotations")?
                .retain(|name, _hash| !name.starts_with("checksum/"));
            let container = &mut template["spec"]["containers"][0];
            // The default of Kubernetes for an image with a version.
            let policy = container
                .as_object_mut()
                .and_then(|container| container.remove("imagePullPolicy"));
            ensure!(policy == Some(json!("IfNotPresent")), "{policy:?}");
            // The value `collections` is the one place; the base leaves it to the default of the program.
            let variables = container["env"].as_array_mut().context("no variables")?;
            variables.retain(|variable| {
                if variable["name"] != "AURA_CONFIGURATION_COLLECTIONS" {
                    return true;
                }
                let mut given: Vec<_> = variable["value"]
                    .as_str()
                    .unwrap_or_default()
                    .split(',')
                    .collect();
                given.sort_unstable();
                given != served
            });
        }
        _ => {}
    }
    Ok(())
}

/// Brings both to one form: without labels of the objects themselves, which nothing selects by, the
/// namespace and the hash that kustomize adds, and with lists of named items by name.
fn normalize(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("labels");
        metadata.remove("namespace");
    }
    normalize_within(object);
}

fn normalize_within(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(name)) = members.get_mut("name")
                && name.starts_with("confcast-settings-")
            {
                *name = "confcast-settings".to_owned();
            }
            // kustomize leaves out what is empty.
            members.retain(|_name, member| *member != json!({}));
            members.values_mut().for_each(normalize_within);
        }
        Value::Array(items) => {
            items.iter_mut().for_each(normalize_within);
            if items.iter().all(|item| item["name"].is_string()) {
                items.sort_by_key(|item| item["name"].to_string());
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Where two values differ, as lines.
fn differences(chart: &Value, base: &Value, path: String, found: &mut Vec<String>) {
    match (chart, base) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            for name in names {
                let missing = Value::Null;
                differences(
                    ours.get(name).unwrap_or(&missing),
                    theirs.get(name).unwrap_or(&missing),
                    format!("{path}/{name}"),
                    found,
                );
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (one, other)) in ours.iter().zip(theirs).enumerate() {
                differences(one, other, format!("{path}/{index}"), found);
            }
        }
        _ if chart == base => {}
        _ => found.push(format!("{path}: chart {chart}, base {base}")),
    }
}
