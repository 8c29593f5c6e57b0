//! Each collection, its schema and its sample, as they ship.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::complete::missing;

/// The collections of the source document.
pub(crate) const COLLECTIONS: [&str; 6] = [
    "AgentConfiguration",
    "ApplicationConfiguration",
    "ChannelConfiguration",
    "PresetConfiguration",
    "SkillConfiguration",
    "TvSectionsConfiguration",
];

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "schemas"]
        .iter()
        .collect()
}

pub(crate) fn read(name: &str) -> anyhow::Result<Value> {
    let path = folder().join(name);
    let bytes = fs::read(&path).with_context(|| format!("{} is needed", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display()))
}

/// The six, and whatever has a schema or a sample besides.
fn collections() -> anyhow::Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> = COLLECTIONS.map(str::to_owned).into();
    for entry in folder().read_dir()? {
        let name = entry?
            .file_name()
            .into_string()
            .ok()
            .context("a file name in UTF-8")?;
        let collection = name
            .strip_suffix(".schema.json")
            .or_else(|| name.strip_suffix(".sample.json"));
        names.insert(
            collection
                .with_context(|| format!("{name} is neither a schema nor a sample"))?
                .to_owned(),
        );
    }
    Ok(names)
}

#[test]
fn each_collection_has_a_schema_and_a_valid_and_complete_sample() -> anyhow::Result<()> {
    for collection in collections()? {
        let schema = read(&format!("{collection}.schema.json"))?;
        let sample = read(&format!("{collection}.sample.json"))?;
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)?;
        let faults: Vec<_> = validator
            .iter_errors(&sample)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        ensure!(
            faults.is_empty(),
            "the sample of {collection} is not valid: {faults:#?}"
        );
        let missing = missing(&schema, &sample);
        ensure!(
            missing.is_empty(),
            "the sample of {collection} is not complete: {missing:#?}"
        );
    }
    Ok(())
}

/// The walk misses each field of the schemas that ship, when no object of the sample has it.
#[test]
fn a_sample_without_any_one_of_its_fields_is_not_complete() -> anyhow::Result<()> {
    for collection in COLLECTIONS {
        let schema = read(&format!("{collection}.schema.json"))?;
        let sample = read(&format!("{collection}.sample.json"))?;
        let names = declared(&schema);
        ensure!(names.len() > 10, "{collection}: only {names:?}");
        for name in names {
            let mut less = sample.clone();
            remove(&mut less, &name);
            ensure!(
                !missing(&schema, &less).is_empty(),
                "{collection} is complete without {name}"
            );
        }
    }
    Ok(())
}

/// Every name below a `properties`.
fn declared(schema: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = vec![schema];
    while let Some(schema) = rest.pop() {
        names.extend(
            schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _schema)| name.clone()),
        );
        match schema {
            Value::Object(members) => rest.extend(members.values()),
            Value::Array(elements) => rest.extend(elements),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    names
}

fn remove(value: &mut Value, name: &str) {
    match value {
        Value::Object(members) => {
            members.remove(name);
            members.values_mut().for_each(|value| remove(value, name));
        }
        Value::Array(elements) => elements.iter_mut().for_each(|value| remove(value, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
