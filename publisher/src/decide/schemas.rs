//! JSON Schemas of the collections, against which every new value is checked.
//!
//! A collection without a schema takes any object. Schemas, and the samples in the same folder, are
//! read once, when the publisher starts; nothing is fetched from the network. A sample is only
//! served by the API: it is not checked, and nothing is checked against it.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

use anyhow::{Context, ensure};
use bytes::Bytes;
use contract::{CollectionName, canonical};
use jsonschema::Validator;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::decide::WriteError;

const SUFFIX: &str = ".schema.json";
const SAMPLE_SUFFIX: &str = ".sample.json";

/// The schemas of all collections that have one, by collection.
#[derive(Debug, Default)]
pub struct Schemas(BTreeMap<CollectionName, Schema>);

/// The schema of a collection.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    /// Name of this version of the schema:
    /// `urn:confcast:schema:{collection}:{first 12 hex digits of its sha-256}`.
    pub urn: String,
    /// `title` of the schema.
    pub title: Option<String>,
    /// `description` of the schema.
    pub description: Option<String>,
    /// The file, byte for byte. The digits in the URN are of this text.
    pub text: Bytes,
    /// An example document, if the folder has a `{Collection}.sample.json`.
    pub sample: Option<Bytes>,
}

impl Schemas {
    /// Reads every `{Collection}.schema.json` of a folder. A folder that does not exist has no
    /// schemas.
    ///
    /// # Errors
    /// When a file cannot be read, is not named after a collection, or is not a JSON Schema.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut schemas = BTreeMap::new();
        if !folder.exists() {
            return Ok(Self(schemas));
        }
        for entry in folder
            .read_dir()
            .with_context(|| format!("reading {}", folder.display()))?
        {
            let path = entry?.path();
            let Some(name) = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_suffix(SUFFIX))
            else {
                continue;
            };
            let collection = name
                .parse()
                .with_context(|| format!("the name of {}", path.display()))?;
            let schema = Schema::read(&collection, &path)
                .with_context(|| format!("the schema {}", path.display()))?;
            schemas.insert(collection, schema);
        }
        Ok(Self(schemas))
    }

    /// The collections that have a schema.
    pub fn collections(&self) -> impl Iterator<Item = &CollectionName> {
        self.0.keys()
    }

    /// The schema of a collection, if it has one.
    pub fn get(&self, collection: &CollectionName) -> Option<&Schema> {
        self.0.get(collection)
    }

    /// All schemas, by collection.
    pub fn all(&self) -> impl Iterator<Item = (&CollectionName, &Schema)> {
        self.0.iter()
    }

    /// [`Schema::urn`] of a collection; `dataschema` of its events.
    pub fn urn(&self, collection: &CollectionName) -> Option<&str> {
        self.0.get(collection).map(|schema| schema.urn.as_str())
    }

    /// Checks a document against the schema of its collection.
    ///
    /// # Errors
    /// [`WriteError::Schema`] with a pointer to the first fault.
    pub fn check(&self, collection: &CollectionName, document: &Value) -> Result<(), WriteError> {
        let Some(schema) = self.0.get(collection) else {
            return Ok(());
        };
        schema.validator.validate(document).map_err(|fault| {
            // The value at fault may be large or private, so the text does not repeat it.
            WriteError::Schema {
                pointer: fault.instance_path().to_string(),
                detail: fault.masked_with("the value").to_string(),
            }
        })
    }
}

impl Schema {
    fn read(collection: &CollectionName, path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path)?;
        let sample = match fs::read(path.with_file_name(format!("{collection}{SAMPLE_SUFFIX}"))) {
            Ok(sample) => {
                let _: &RawValue = serde_json::from_slice(&sample).context("its sample")?;
                Some(sample.into())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("its sample"),
        };
        let schema = canonical::value(&bytes)?;
        ensure!(schema.is_object(), "a schema is a JSON object");
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)?;
        let text = |keyword| {
            schema
                .get(keyword)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        Ok(Self {
            validator,
            urn: format!("urn:confcast:schema:{collection}:{}", digits(&bytes)),
            title: text("title"),
            description: text("description"),
            text: bytes.into(),
            sample,
        })
    }
}

/// The first 12 hex digits of the SHA-256 of a text; they identify its version.
pub fn digits(text: &[u8]) -> String {
    Sha256::digest(text)
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
