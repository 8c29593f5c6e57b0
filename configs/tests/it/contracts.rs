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
    [env!("CARGO_MANIFEST_DIR"), "..", "schemas"].iter().collect()
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
        let name = entry?.file_name().into_string().ok().context("a file name in UTF-8")?;
        let collection = name.strip_suffix(".schema.json").or_else(|| name.strip_suffix(".sample.json"));
        names.insert(collection.with_context(|| format!("{name} is neither a schema nor a sample"))?.to_owned());
    }
    Ok(names)
}

#[test]
fn each_collection_has_a_schema_and_a_valid_and_complete_sample() -> anyhow::Result<()> {
    for collection in collections()? {
        let schema = read(&format!("{collection}.schema.json"))?;
        let sample = read(&format!("{collection}.sample.json"))?;
        let validator = jsonschema::options().should_validate_formats(true).build(&schema)?;
        let faults: Vec<_> =
            validator.iter_errors(&sample).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
        ensure!(faults.is_empty(), "the sample of {collection} is not valid: {faults:#?}");
        let missing = missing(&schema, &sample);
        ensure!(missing.is_empty(), "the sample of {collection} is not complete: {missing:#?}");
    }
    Ok(())
}
