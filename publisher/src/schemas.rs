//! JSON Schemas of the collections: what a document must look like to be written.
//!
//! A collection without a schema takes any object. Schemas are read once, at the start; nothing is fetched from anywhere.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, ensure};
use contract::CollectionName;
use jsonschema::Validator;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::ApiError;

const SUFFIX: &str = ".schema.json";

/// The schemas by collection.
#[derive(Debug, Default)]
pub struct Schemas(BTreeMap<CollectionName, Schema>);

#[derive(Debug)]
struct Schema {
    validator: Validator,
    urn: String,
}

impl Schemas {
    /// Reads every `{Collection}.schema.json` of a folder. A folder that does not exist holds no schemas.
    ///
    /// # Errors
    /// When a file cannot be read, is not named after a collection, or is not a JSON Schema.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut schemas = BTreeMap::new();
        if !folder.exists() {
            return Ok(Self(schemas));
        }
        for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(SUFFIX)) else { continue };
            let collection = name.parse().with_context(|| format!("the name of {}", path.display()))?;
            let schema = Schema::read(&collection, &path).with_context(|| format!("the schema {}", path.display()))?;
            schemas.insert(collection, schema);
        }
        Ok(Self(schemas))
    }

    /// The collections that have one.
    pub fn collections(&self) -> impl Iterator<Item = &CollectionName> {
        self.0.keys()
    }

    /// `urn:confcast:schema:{collection}:{first 12 hex digits of its sha-256}`: the `dataschema` of events.
    pub fn urn(&self, collection: &CollectionName) -> Option<&str> {
        self.0.get(collection).map(|schema| schema.urn.as_str())
    }

    /// Checks a document.
    ///
    /// # Errors
    /// 422 with the pointer at the first fault.
    pub fn check(&self, collection: &CollectionName, document: &Value) -> Result<(), ApiError> {
        let Some(schema) = self.0.get(collection) else { return Ok(()) };
        schema.validator.validate(document).map_err(|fault| {
            let pointer = fault.instance_path().to_string();
            // The value at fault may be large or private; the pointer says where it is.
            ApiError::schema(pointer, fault.masked_with("the value").to_string())
        })
    }
}

impl Schema {
    fn read(collection: &CollectionName, path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path)?;
        let schema: Value = serde_json::from_slice(&bytes)?;
        ensure!(schema.is_object(), "a schema is a JSON object");
        let validator = jsonschema::options().should_validate_formats(true).build(&schema)?;
        let hash: String = Sha256::digest(&bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { validator, urn: format!("urn:confcast:schema:{collection}:{hash}") })
    }
}
