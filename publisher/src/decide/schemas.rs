//! JSON Schemas of the collections: what a document must look like to be written.
//!
//! A collection without a schema takes any object. Schemas, and the samples beside them, are read
//! once, at the start; nothing is fetched from anywhere. A sample is only handed out: nothing is
//! checked by it, and it is not checked itself.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

use anyhow::{Context, ensure};
use bytes::Bytes;
use contract::CollectionName;
use jsonschema::Validator;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::api::error::ApiError;

const SUFFIX: &str = ".schema.json";
const SAMPLE_SUFFIX: &str = ".sample.json";

/// The schemas by collection.
#[derive(Debug, Default)]
pub struct Schemas(BTreeMap<CollectionName, Schema>);

/// The schema of a collection.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    /// `urn:confcast:schema:{collection}:{first 12 hex digits of its sha-256}`.
    pub urn: String,
    /// `title` of the schema.
    pub title: Option<String>,
    /// `description` of the schema.
    pub description: Option<String>,
    /// The file, byte for byte: what the digits in the URN are of.
    pub text: Bytes,
    /// A document as an example, if one lies beside the schema.
    pub sample: Option<Bytes>,
}

impl Schemas {
    /// Reads every `{Collection}.schema.json` of a folder. A folder that does not exist holds no
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

    /// The collections that have one.
    pub fn collections(&self) -> impl Iterator<Item = &CollectionName> {
        self.0.keys()
    }

    /// The schema of a collection, if it has one.
    pub fn get(&self, collection: &CollectionName) -> Option<&Schema> {
        self.0.get(collection)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&CollectionName, &Schema)> {
        self.0.iter()
    }

    /// [`Schema::urn`]: the `dataschema` of events.
    pub fn urn(&self, collection: &CollectionName) -> Option<&str> {
        self.0.get(collection).map(|schema| schema.urn.as_str())
    }

    /// Checks a document.
    ///
    /// # Errors
    /// 422 with the pointer at the first fault.
    pub fn check(&self, collection: &CollectionName, document: &Value) -> Result<(), ApiError> {
        let Some(schema) = self.0.get(collection) else {
            return Ok(());
        };
        schema.validator.validate(document).map_err(|fault| {
            let pointer = fault.instance_path().to_string();
            // The value at fault may be large or private; the pointer says where it is.
            ApiError::schema(pointer, fault.masked_with("the value").to_string())
        })
    }
}

impl Schema {
    fn read(collection: &CollectionName, path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path)?;
        let sample = match fs::read(path.with_file_name(format!("{collection}{SAMPLE_SUFFIX}"))) {
            Ok(sample) => {
                let _: &RawValue =
                    serde_json::from_slice(&sample).context("the sample beside it")?;
                Some(sample.into())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("the sample beside it"),
        };
        let schema: Value = serde_json::from_slice(&bytes)?;
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

/// The first 12 hex digits of the sha-256: which version of a text it is.
pub fn digits(text: &[u8]) -> String {
    Sha256::digest(text)
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
