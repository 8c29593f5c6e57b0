//! Watches the folder of the schemas while the publisher runs: a changed schema comes into force, and
//! the collection of a new one is served, without a restart.
//!
//! A file that cannot be used leaves the earlier schema in force. A file that is gone does as well,
//! and its collection stays: nothing that was served disappears before a restart.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use contract::{CollectionName, canonical, fleet::MAX_SERVED};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Fault, Reading, read_changed};
use crate::{
    decide::schemas::{Schema, SchemaMap},
    policy::{listed, unserved_targets},
    store::Store,
};

/// Time between two looks at the folder.
const INTERVAL: Duration = Duration::from_secs(3);

/// Puts new and changed schemas in force, and logs how many stored documents each of them refuses.
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
        let store = self.store.clone();
        let policy = store.policy();
        let in_force = policy.rules.schemas.all();
        let (folder, known) = (self.folder.clone(), in_force.clone());
        let read = tokio::task::spawn_blocking(move || read_changed(&folder, &known)).await;
        let reading = match read.map_err(anyhow::Error::from).and_then(|read| read) {
            Ok(reading) => reading,
            Err(error) => {
                return self.warn(format!(
                    "the schemas cannot be read, the earlier ones stay in force: {error:#}"
                ));
            }
        };
        let mut warnings = left_in_force(&in_force, &reading);
        let mut found = reading.schemas;
        let served = policy.collections.all();
        let new: BTreeSet<_> = found
            .keys()
            .filter(|name| !served.contains(*name))
            .cloned()
            .collect();
        let added = self.add(&served, new, &mut warnings).await;
        let all_served = served.union(&added).cloned().collect();
        warnings.extend(unserved_targets(&found, &all_served));
        self.warn(warnings.join("; "));
        found.retain(|name, _schema| served.contains(name) || added.contains(name));
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
        // The schema before its collection: no document is taken unchecked.
        policy.rules.schemas.replace(next);
        policy.collections.add(&added);
        if !added.is_empty() {
            info!(
                collections = listed(&added),
                "the schemas of new collections were added: they are served from now on"
            );
        }
        for (collection, schema) in changed {
            self.report(&collection, &schema).await;
        }
    }

    /// Has the store make the heads of new collections, as many as may be served. Returns those which
    /// can be served now; what the others lack becomes a warning.
    async fn add(
        &self,
        served: &BTreeSet<CollectionName>,
        new: BTreeSet<CollectionName>,
        warnings: &mut Vec<String>,
    ) -> BTreeSet<CollectionName> {
        if new.is_empty() {
            return new;
        }
        if !self.store.policy().collections.grow() {
            warnings.push(format!(
                "schemas were added of collections that are not served: {}. \
                 AURA_CONFIGURATION_COLLECTIONS names the collections of this publisher, so they \
                 are fixed while it runs; a restart serves these too",
                listed(&new)
            ));
            return BTreeSet::new();
        }
        let room = MAX_SERVED.saturating_sub(served.len());
        let mut new = new.into_iter();
        let added: BTreeSet<_> = new.by_ref().take(room).collect();
        let left_out: BTreeSet<_> = new.collect();
        if !left_out.is_empty() {
            warnings.push(format!(
                "{MAX_SERVED} collections are served, which is the limit; not served: {}",
                listed(&left_out)
            ));
        }
        if added.is_empty() {
            return added;
        }
        match self.store.add_collections(&added).await {
            Ok(()) => added,
            Err(error) => {
                warnings.push(format!(
                    "new collections are not served yet, because the store cannot take them; this \
                     is tried again: {} ({error:#})",
                    listed(&added)
                ));
                BTreeSet::new()
            }
        }
    }

    /// Logs that a schema is in force, and what it means for the stored documents.
    async fn report(&self, collection: &CollectionName, schema: &Arc<Schema>) {
        match self.refused(collection, schema).await {
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
                    canonical::value(json).map_or(true, |value| !schema.fits_stored(&value))
                };
                texts.iter().filter(is_refused).count() as u64
            })
            .await?;
        }
        Ok((refused, checked))
    }

    /// Logs a warning once. No text means that nothing is wrong.
    fn warn(&mut self, warning: String) {
        let warning = Some(warning).filter(|text| !text.is_empty());
        if let Some(text) = &warning
            && self.warned != warning
        {
            warn!(folder = %self.folder.display(), "{text}");
        }
        self.warned = warning;
    }
}

/// What is wrong with the files of schemas that stay in force.
fn left_in_force(in_force: &SchemaMap, reading: &Reading) -> Vec<String> {
    let Reading { schemas, faults } = reading;
    let mut warnings = Vec::new();
    if !faults.is_empty() {
        warnings.push(format!(
            "these schemas cannot be used, the earlier ones stay in force: {}",
            Fault::all(faults)
        ));
    }
    let is_gone = |name: &&CollectionName| {
        let named = |fault: &Fault| fault.collection.as_ref() == Some(*name);
        !schemas.contains_key(*name) && !faults.iter().any(named)
    };
    let gone = listed(in_force.keys().filter(is_gone));
    if !gone.is_empty() {
        warnings.push(format!(
            "the files of schemas that are in force are gone: {gone}. Until a restart the schemas \
             stay in force and their collections are served; after it only collections of \
             AURA_CONFIGURATION_COLLECTIONS are, without a schema"
        ));
    }
    warnings
}
