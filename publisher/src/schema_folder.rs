//! The folder of the schemas: one file `{Collection}.schema.json` for each collection, and samples.
//!
//! It is read at the start and then watched (`watch`). Nothing is decided about a write here, and
//! nothing is written to the folder.

use std::{io::ErrorKind, path::Path, sync::Arc};

use anyhow::{Context, bail};
use bytes::Bytes;
use contract::{
    CollectionName,
    json_file::{self, JsonFileError},
};
use service::runtime::regular_file;

pub use self::watch::SchemaWatch;
use crate::decide::schemas::{Schema, SchemaMap};

mod watch;

const SUFFIX: &str = ".schema.json";
const SAMPLE_SUFFIX: &str = ".sample.json";
/// Most bytes of a schema, and of a sample.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Reads every schema of a folder. A folder that does not exist has no schemas.
///
/// # Errors
/// When the folder cannot be read; or all files that cannot be read, are not named after a
/// collection, or are not a JSON Schema.
pub fn read(folder: &Path) -> anyhow::Result<SchemaMap> {
    let Reading { schemas, faults } = read_changed(folder, &SchemaMap::new())?;
    if !faults.is_empty() {
        bail!(Fault::all(&faults));
    }
    Ok(schemas)
}

/// The content of the folder.
struct Reading {
    schemas: SchemaMap,
    faults: Vec<Fault>,
}

/// A file that cannot be used.
struct Fault {
    /// The collection that it is named after.
    collection: Option<CollectionName>,
    reason: anyhow::Error,
}

impl Fault {
    /// All of them in one text.
    fn all(faults: &[Self]) -> String {
        let reasons: Vec<_> = faults
            .iter()
            .map(|fault| format!("{:#}", fault.reason))
            .collect();
        reasons.join("; ")
    }
}

/// Reads the folder. A schema whose file did not change is the known one. A file that cannot be used
/// does not affect the others.
///
/// # Errors
/// When the folder cannot be read.
fn read_changed(folder: &Path, known: &SchemaMap) -> anyhow::Result<Reading> {
    let mut reading = Reading {
        schemas: SchemaMap::new(),
        faults: Vec::new(),
    };
    if !folder.exists() {
        return Ok(reading);
    }
    let reading_folder = || format!("reading {}", folder.display());
    for entry in folder.read_dir().with_context(reading_folder)? {
        let path = entry.with_context(reading_folder)?.path();
        let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(SUFFIX))
        else {
            continue;
        };
        let collection = match name.parse::<CollectionName>() {
            Ok(collection) => collection,
            Err(error) => {
                reading.faults.push(Fault {
                    collection: None,
                    reason: anyhow::Error::from(error)
                        .context(format!("the name of {}", path.display())),
                });
                continue;
            }
        };
        match read_schema(&collection, &path, known) {
            Ok(schema) => _ = reading.schemas.insert(collection, schema),
            Err(reason) => reading.faults.push(Fault {
                collection: Some(collection),
                reason: reason.context(format!("the schema {}", path.display())),
            }),
        }
    }
    Ok(reading)
}

fn read_schema(
    collection: &CollectionName,
    path: &Path,
    known: &SchemaMap,
) -> anyhow::Result<Arc<Schema>> {
    let text = object(&regular_file::read(path, MAX_FILE_BYTES)?)?;
    let sample = path.with_file_name(format!("{collection}{SAMPLE_SUFFIX}"));
    let sample = match regular_file::read(&sample, MAX_FILE_BYTES) {
        Ok(sample) => Some(object(&sample).context("its sample")?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("its sample"),
    };
    match known.get(collection) {
        Some(schema) if schema.text == text && schema.sample == sample => Ok(schema.clone()),
        _ => Ok(Arc::new(Schema::new(collection, text, sample)?)),
    }
}

/// The text of a file that has to be one JSON object. A byte order mark is no part of it, so that
/// the same schema has the same name with and without one.
fn object(file: &[u8]) -> Result<Bytes, JsonFileError> {
    json_file::object(file).map(|text| Bytes::copy_from_slice(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        process::Command,
    };

    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read_and_each_other_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str| fs::write(path(name), "{}").expect("written");
        for name in ["Good.schema.json", "Sampled.schema.json"] {
            write(name);
        }
        for name in ["Pipe.schema.json", "Sampled.sample.json"] {
            let made = Command::new("mkfifo").arg(path(name)).status();
            assert!(made.expect("mkfifo").success());
        }
        std::os::unix::fs::symlink("/dev/zero", path("Device.schema.json")).expect("a link");
        fs::create_dir(path("Folder.schema.json")).expect("a folder");
        // A file without blocks: it is large and takes no space.
        let large = File::create(path("Large.schema.json")).expect("a file");
        large.set_len(1 << 40).expect("a size");
        // Apart, so that a read that waits fails the test, and the test does not wait for it.
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let read_folder = folder.path().to_owned();
        let read =
            || tokio::task::spawn_blocking(move || read_changed(&read_folder, &SchemaMap::new()));
        let reading = runtime.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(10), read()).await
        });
        runtime.shutdown_background();
        let reading = reading.expect("no wait for a pipe").expect("no panic");
        let reading = reading.expect("a folder");
        let names: Vec<_> = reading.schemas.keys().map(CollectionName::as_str).collect();
        assert_eq!(names, ["Good"]);
        let faults = Fault::all(&reading.faults);
        for (file, reason) in [
            ("Pipe", "no regular file"),
            ("Sampled", "its sample: it is no regular file"),
            ("Device", "no regular file"),
            ("Folder", "no regular file"),
            ("Large", "larger than 4194304 bytes"),
        ] {
            let fault = faults.split("; ").find(|fault| fault.contains(file));
            assert!(
                fault.is_some_and(|fault| fault.contains(reason)),
                "{faults}"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_affects_no_other_and_each_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("written");
        };
        write("Good.schema.json", r#"{"type": "object"}"#);
        write("Torn.schema.json", r#"{"type": "#);
        write("Wrong.schema.json", r#"{"type": 7}"#);
        write("_bad name.schema.json", "{}");
        let reading = read_changed(folder.path(), &SchemaMap::new()).expect("read");
        let names: Vec<_> = reading.schemas.keys().map(CollectionName::as_str).collect();
        assert_eq!(names, ["Good"]);
        let error = read(folder.path()).expect_err("three faults").to_string();
        for file in ["Torn", "Wrong", "_bad name"] {
            assert!(error.contains(&format!("{file}.schema.json")), "{error}");
        }
        assert!(!error.contains("Good"), "{error}");
    }
}
