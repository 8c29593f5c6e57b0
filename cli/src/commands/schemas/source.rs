//! Where schemas come from: a folder, single files, or a publisher.
//!
//! A schema that is read here has been compiled, so it can judge; what a schema refers to outside
//! itself is never fetched.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use contract::CollectionName;
use jsonschema::Validator;
use serde::Deserialize;
use serde_json::Value;

use crate::client::Api;

pub(super) const SCHEMA: &str = ".schema.json";
pub(super) const SAMPLE: &str = ".sample.json";

/// What is agreed on for one collection.
#[derive(Debug)]
pub(super) struct Contract {
    pub(super) collection: CollectionName,
    /// The schema as it was written.
    pub(super) text: String,
    pub(super) schema: Value,
    pub(super) sample: Option<Sample>,
}

/// A document as an example.
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
        let schema: Value =
            serde_json::from_str(&text).with_context(|| format!("the schema of {collection}"))?;
        ensure!(
            schema.is_object(),
            "the schema of {collection} is not a JSON object"
        );
        let sample = sample
            .map(|text| {
                anyhow::Ok(Sample {
                    value: serde_json::from_str(&text)?,
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
        Ok(contract)
    }

    /// Judges as the publisher does.
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

/// Every schema of a folder, with the samples beside them, by name.
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
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let beside = path.with_file_name(format!("{collection}{SAMPLE}"));
        let sample = beside
            .exists()
            .then(|| fs::read_to_string(&beside))
            .transpose();
        let sample = sample.with_context(|| format!("cannot read {}", beside.display()))?;
        let twice = contracts.insert(
            collection.clone(),
            Contract::new(collection.clone(), text, sample)?,
        );
        ensure!(twice.is_none(), "{collection} is named twice");
    }
    Ok(contracts.into_values().collect())
}

fn collection(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(SCHEMA)
}

/// What a publisher has in force.
pub(super) async fn publisher(api: &Api) -> anyhow::Result<Vec<Contract>> {
    #[derive(Deserialize)]
    struct List {
        schemas: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        collection: CollectionName,
        sample: bool,
    }
    let list: List = api
        .get("/v1/schemas")
        .await?
        .json()
        .await
        .context("the list of schemas")?;
    let mut contracts = Vec::new();
    for Listed { collection, sample } in list.schemas {
        let path = format!("/v1/schemas/{collection}");
        let text = api.get(&path).await?.text().await.context("a schema")?;
        let sample = match sample {
            true => Some(
                api.get(&format!("{path}/sample"))
                    .await?
                    .text()
                    .await
                    .context("a sample")?,
            ),
            false => None,
        };
        contracts.push(Contract::new(collection, text, sample)?);
    }
    Ok(contracts)
}
