//! Reads the shipped files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, ensure};
use e2e::testbed::dependencies::{path_of, repository_root};
use serde_json::Value;

/// All documents of a YAML file of the repository.
pub(crate) fn file(path: &str) -> anyhow::Result<Vec<Value>> {
    documents(
        &fs::read_to_string(repository_root().join(path))
            .with_context(|| format!("reading {path}"))?,
    )
    .with_context(|| format!("in {path}"))
}

/// Names of the files in a folder of the repository.
pub(crate) fn files(folder: &str) -> anyhow::Result<BTreeSet<String>> {
    let entries = repository_root()
        .join(folder)
        .read_dir()
        .with_context(|| format!("reading {folder}"))?;
    entries
        .map(|entry| Ok(format!("{folder}/{}", entry?.file_name().to_string_lossy())))
        .collect()
}

/// The objects that `kubectl apply --kustomize deploy/kubernetes` would send.
pub(crate) fn kustomized() -> anyhow::Result<Vec<Value>> {
    built("deploy/kubernetes")
}

/// The same with TLS and signed events.
pub(crate) fn secured() -> anyhow::Result<Vec<Value>> {
    built("deploy/secured")
}

/// The objects of a folder with a kustomization, as a path within the repository.
pub(crate) fn built(folder: &str) -> anyhow::Result<Vec<Value>> {
    documents(&tool("KUSTOMIZE", &["build", folder])?)
}

/// The Helm chart.
pub(crate) const CHART: &str = "deploy/helm/confcast";

/// The files with values that the chart is tried with, as paths within the repository.
pub(crate) fn chart_values() -> anyhow::Result<BTreeSet<String>> {
    let values = files(&format!("{CHART}/ci"))?;
    ensure!(!values.is_empty(), "the chart is tried with no values");
    Ok(values)
}

/// The objects that `helm install confcast deploy/helm/confcast` would send, with one of these files.
pub(crate) fn charted(values: Option<&str>) -> anyhow::Result<Vec<Value>> {
    let mut arguments = vec!["template", "confcast", CHART, "--namespace", "confcast"];
    arguments.extend(values.iter().flat_map(|file| ["--values", *file]));
    documents(&tool(HELM, &arguments)?).with_context(|| format!("with {values:?}"))
}

/// All renderings of the chart: with its defaults, and with each of the files.
pub(crate) fn renderings() -> anyhow::Result<Vec<(String, Vec<Value>)>> {
    let mut all = vec![("the defaults".to_owned(), charted(None)?)];
    for values in chart_values()? {
        let objects = charted(Some(&values))?;
        all.push((values, objects));
    }
    Ok(all)
}

/// The part of `provide.sh` with Helm. It asks no cluster and no registry.
pub(crate) const HELM: &str = "HELM";

/// Runs a program that `provide.sh` names in the root of the repository.
pub(crate) fn run_tool(part: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(path_of(part)?)
        .args(arguments)
        .current_dir(repository_root())
        .output()?)
}

/// The same; gives what it prints.
///
/// # Errors
/// With all that it says, when it fails.
pub(crate) fn tool(part: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = run_tool(part, arguments)?;
    ensure!(
        output.status.success(),
        "{part} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The only object of a kind, or of a kind and a name.
pub(crate) fn the<'a>(
    objects: &'a [Value],
    kind: &str,
    name: Option<&str>,
) -> anyhow::Result<&'a Value> {
    let mut found = objects.iter().filter(|object| {
        object["kind"] == kind && name.is_none_or(|name| object["metadata"]["name"] == name)
    });
    let object = found
        .next()
        .with_context(|| format!("no {kind} {}", name.unwrap_or_default()))?;
    ensure!(found.next().is_none(), "more than one {kind}");
    Ok(object)
}

/// The value at a pointer.
pub(crate) fn at<'a>(value: &'a Value, pointer: &str) -> anyhow::Result<&'a Value> {
    value
        .pointer(pointer)
        .with_context(|| format!("no {pointer} in {}", identity(value)))
}

/// The text at a pointer.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> anyhow::Result<&'a str> {
    at(value, pointer)?
        .as_str()
        .with_context(|| format!("{pointer} is no text"))
}

/// The members of an object or the items of a list; empty if there is none.
pub(crate) fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// A list of `{name, value}` as a map. An entry without a value is returned as JSON.
pub(crate) fn named_values(list: &Value) -> BTreeMap<String, String> {
    items(list, "")
        .filter_map(|item| {
            let value = item.get("value").map(|value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            });
            Some((
                item["name"].as_str()?.to_owned(),
                value.unwrap_or_else(|| item.to_string()),
            ))
        })
        .collect()
}

/// `kind/name`, for error messages.
pub(crate) fn identity(object: &Value) -> String {
    format!(
        "{}/{}",
        object["kind"].as_str().unwrap_or("?"),
        object["metadata"]["name"].as_str().unwrap_or("?")
    )
}

/// The six collections, named after their schemas.
pub(crate) fn collections() -> anyhow::Result<BTreeSet<String>> {
    let files = files("schemas")?;
    let names = files
        .iter()
        .filter_map(|file| file.strip_prefix("schemas/")?.strip_suffix(".schema.json"));
    Ok(names.map(str::to_owned).collect())
}

pub(crate) fn read(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = repository_root().join(path);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

pub(crate) fn documents(yaml: &str) -> anyhow::Result<Vec<Value>> {
    // A file may begin with a separator.
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}
