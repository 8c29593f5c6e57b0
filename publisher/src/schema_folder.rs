//! The folder of the schemas: one file `{Collection}.schema.json` for each collection, and samples.
//!
//! It is read at the start and then watched: a changed schema comes into force without a restart. A
//! file that cannot be used, or that is gone, leaves the earlier schema in force. Nothing is decided
//! about a write here.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use contract::{CollectionName, canonical};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    decide::schemas::{Schema, SchemaMap},
    store::Store,
};

const SUFFIX: &str = ".schema.json";
const SAMPLE_SUFFIX: &str = ".sample.json";
/// Time between two looks at the folder.
const INTERVAL: Duration = Duration::from_secs(3);

/// Reads every schema of a folder. A folder that does not exist has no schemas.
///
/// # Errors
/// When a file cannot be read, is not named after a collection, or is not a JSON Schema.
pub fn read(folder: &Path) -> anyhow::Result<SchemaMap> {
    read_changed(folder, &SchemaMap::new())
}

/// As [`read`]; a schema whose file did not change is the known one.
fn read_changed(folder: &Path, known: &SchemaMap) -> anyhow::Result<SchemaMap> {
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
        let schema = read_schema(&collection, &path, known)
            .with_context(|| format!("the schema {}", path.display()))?;
        schemas.insert(collection, schema);
    }
    Ok(schemas)
}

fn read_schema(
    collection: &CollectionName,
    path: &Path,
    known: &SchemaMap,
) -> anyhow::Result<Arc<Schema>> {
    let text = Bytes::from(fs::read(path)?);
    let sample = match fs::read(path.with_file_name(format!("{collection}{SAMPLE_SUFFIX}"))) {
        Ok(sample) => Some(Bytes::from(sample)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("its sample"),
    };
    match known.get(collection) {
        Some(schema) if schema.text == text && schema.sample == sample => Ok(schema.clone()),
        _ => Ok(Arc::new(Schema::new(collection, text, sample)?)),
    }
}

/// Puts changed schemas in force, and logs how many stored documents each of them refuses.
#[derive(Debug)]
pub struct SchemaWatch {
    folder: PathBuf,
    store: Store,
    /// The last warning, so that it is not repeated at each look.
    warned: Option<String>,
}

impl SchemaWatch {
    /// Watches the folder for a store.
    pub fn new(folder: PathBuf, store: Store) -> Self {
        Self {
            folder,
            store,
            warned: None,
        }
    }

    /// Looks at the folder until `stop` is cancelled.
    ///
    /// # Errors
    /// Never: what cannot be read is logged, and the earlier schemas stay in force.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _tick = ticks.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.look() => {}
            }
        }
    }

    async fn look(&mut self) {
        let in_force = self.store.policy().rules.schemas.all();
        let (folder, known) = (self.folder.clone(), in_force.clone());
        let read = tokio::task::spawn_blocking(move || read_changed(&folder, &known)).await;
        let mut found = match read.map_err(anyhow::Error::from).and_then(|read| read) {
            Ok(found) => found,
            Err(error) => {
                return self.warn(format!(
                    "the schemas cannot be read, the earlier ones stay in force: {error:#}"
                ));
            }
        };
        let store = self.store.clone();
        let served = &store.policy().collections;
        let not_served: Vec<_> = found
            .keys()
            .filter(|name| !served.contains(*name))
            .map(CollectionName::as_str)
            .collect();
        let gone: Vec<_> = in_force
            .keys()
            .filter(|name| !found.contains_key(*name))
            .map(CollectionName::as_str)
            .collect();
        if !not_served.is_empty() || !gone.is_empty() {
            let [new, gone] = [not_served, gone].map(|names| names.join(", "));
            self.warn(format!(
                "the folder of schemas has other collections than this publisher serves; a restart \
                 is needed (new: {new:?}, gone: {gone:?})"
            ));
        } else {
            self.warned = None;
        }
        found.retain(|name, _schema| served.contains(name));
        let mut next = SchemaMap::clone(&in_force);
        let mut changed = Vec::new();
        for (collection, schema) in found {
            match in_force.get(&collection) {
                Some(known) if Arc::ptr_eq(known, &schema) => {}
                _ => {
                    changed.push((collection.clone(), schema.clone()));
                    next.insert(collection, schema);
                }
            }
        }
        if changed.is_empty() {
            return;
        }
        self.store.policy().rules.schemas.replace(next);
        for (collection, schema) in changed {
            match self.refused(&collection, &schema).await {
                Ok((0, checked)) => info!(
                    %collection, urn = schema.urn,
                    "a changed schema is in force; all {checked} stored documents fit it"
                ),
                Ok((refused, checked)) => warn!(
                    %collection, urn = schema.urn,
                    "a changed schema is in force; it refuses {refused} of {checked} stored \
                     documents, which `confcast schemas check` names"
                ),
                Err(error) => warn!(
                    %collection, urn = schema.urn,
                    "a changed schema is in force; the stored documents could not be checked: \
                     {error:#}"
                ),
            }
        }
    }

    /// How many stored documents a schema refuses, and how many there are.
    async fn refused(
        &self,
        collection: &CollectionName,
        schema: &Arc<Schema>,
    ) -> anyhow::Result<(u64, u64)> {
        let only = BTreeSet::from([collection.clone()]);
        let mut documents = self.store.documents(&only).await?;
        let (mut refused, mut checked) = (0, 0);
        while let Some(chunk) = documents.next().await? {
            let schema = schema.clone();
            let texts: Vec<_> = chunk
                .documents
                .iter()
                .map(|document| document.config_data().to_vec())
                .collect();
            checked += texts.len() as u64;
            refused += tokio::task::spawn_blocking(move || {
                let is_refused = |json: &&Vec<u8>| {
                    canonical::value(json).map_or(true, |value| schema.check(&value).is_err())
                };
                texts.iter().filter(is_refused).count() as u64
            })
            .await?;
        }
        Ok((refused, checked))
    }

    fn warn(&mut self, warning: String) {
        if self.warned.as_ref() != Some(&warning) {
            warn!(folder = %self.folder.display(), "{warning}");
            self.warned = Some(warning);
        }
    }
}
