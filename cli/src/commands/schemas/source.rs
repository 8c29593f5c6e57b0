//! Where schemas come from: a folder, single files, or a publisher.
//!
//! A schema that is read here was compiled, so it can validate. What a schema refers to outside itself
//! is never fetched.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use client::Endpoint;
use contract::{CollectionName, canonical, references::ReferenceRules, secrets::SecretPlaces};
use jsonschema::Validator;
use serde_json::Value;

use crate::input;

pub(super) const SCHEMA: &str = ".schema.json";
pub(super) const SAMPLE: &str = ".sample.json";

/// Schema and sample of one collection.
#[derive(Debug)]
pub(super) struct Contract {
    pub(super) collection: CollectionName,
    /// The schema as it was written.
    pub(super) text: String,
    pub(super) schema: Value,
    pub(super) sample: Option<Sample>,
}

/// An example of a document.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) text: String,
    pub(super) value: Value,
}

impl Contract {
    fn new(
        collection: CollectionName,
        text: String,
        sample: Option<String>,
    ) -> anyhow::Result<Self> {
        let schema = canonical::value(text.as_bytes())
            .with_context(|| format!("the schema of {collection}"))?;
        ensure!(
            schema.is_object(),
            "the schema of {collection} is not a JSON object"
        );
        let sample = sample
            .map(|text| {
                anyhow::Ok(Sample {
                    value: canonical::value(text.as_bytes())?,
                    text,
                })
            })
            .transpose();
        let sample = sample.with_context(|| format!("the sample of {collection}"))?;
        let contract = Self {
            collection,
            text,
            schema,
            sample,
        };
        contract.validator()?;
        contract.references()?;
        contract.secrets()?;
        Ok(contract)
    }

    /// Where its documents refer to others, if they do.
    pub(super) fn references(&self) -> anyhow::Result<Option<ReferenceRules>> {
        let rules = ReferenceRules::of_schema(&self.schema);
        rules.with_context(|| format!("the schema of {}", self.collection))
    }

    /// Where its documents have secrets, if they do.
    pub(super) fn secrets(&self) -> anyhow::Result<Option<SecretPlaces>> {
        let places = SecretPlaces::sealed(&self.schema);
        places.with_context(|| format!("the schema of {}", self.collection))
    }

    /// The validator, with the same options as in the publisher.
    pub(super) fn validator(&self) -> anyhow::Result<Validator> {
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&self.schema);
        validator.map_err(|fault| {
            anyhow!(
                "the schema of {} is not a JSON Schema: {fault}",
                self.collection
            )
        })
    }
}

/// Every schema of a folder, with the samples in the same folder, by name.
pub(super) fn folder(folder: &Path) -> anyhow::Result<Vec<Contract>> {
    let mut files = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        if collection(&path).is_some() {
            files.push(path);
        }
    }
    self::files(&files)
}

/// The named files.
pub(super) fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<Contract>> {
    let mut contracts = BTreeMap::new();
    for path in paths {
        let name = collection(path)
            .with_context(|| format!("{} is not named COLLECTION{SCHEMA}", path.display()))?;
        let collection: CollectionName = name
            .parse()
            .with_context(|| format!("the name of {}", path.display()))?;
        let text = input::object_now(path)?;
        let sample_path = path.with_file_name(format!("{collection}{SAMPLE}"));
        let sample = sample_path
            .exists()
            .then(|| input::object_now(&sample_path))
            .transpose()?;
        let earlier = contracts.insert(
            collection.clone(),
            Contract::new(collection.clone(), text, sample)?,
        );
        ensure!(earlier.is_none(), "{collection} is named twice");
    }
    Ok(contracts.into_values().collect())
}

fn collection(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(SCHEMA)
}

/// The schemas that a publisher has in force.
pub(super) async fn publisher(publisher: &Endpoint) -> anyhow::Result<Vec<Contract>> {
    let mut contracts = Vec::new();
    for entry in publisher.schemas().await? {
        let text = publisher.schema(&entry.collection).await?;
        let sample = if entry.sample {
            Some(publisher.sample(&entry.collection).await?)
        } else {
            None
        };
        contracts.push(Contract::new(entry.collection, text, sample)?);
    }
    Ok(contracts)
}
