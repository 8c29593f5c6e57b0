//! The folder of the schemas: one file `{Collection}.schema.json` for each collection, and samples.
//!
//! It is read at the start and then watched. Nothing is checked against a schema here.

use std::{fs, io::ErrorKind, path::Path, sync::Arc};

use anyhow::Context;
use contract::CollectionName;

use crate::decide::schemas::{Schema, SchemaMap};

const SUFFIX: &str = ".schema.json";
const SAMPLE_SUFFIX: &str = ".sample.json";

/// Reads every schema of a folder. A folder that does not exist has no schemas.
///
/// # Errors
/// When a file cannot be read, is not named after a collection, or is not a JSON Schema.
pub fn read(folder: &Path) -> anyhow::Result<SchemaMap> {
    let mut schemas = SchemaMap::new();
    if !folder.exists() {
        return Ok(schemas);
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
        let schema = read_schema(&collection, &path)
            .with_context(|| format!("the schema {}", path.display()))?;
        schemas.insert(collection, Arc::new(schema));
    }
    Ok(schemas)
}

fn read_schema(collection: &CollectionName, path: &Path) -> anyhow::Result<Schema> {
    let text = fs::read(path)?;
    let sample = match fs::read(path.with_file_name(format!("{collection}{SAMPLE_SUFFIX}"))) {
        Ok(sample) => Some(sample.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("its sample"),
    };
    Schema::new(collection, text.into(), sample)
}
