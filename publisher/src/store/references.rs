//! The search for the documents that refer to some documents.
//!
//! There is no index of references: what a value refers to follows from the schema in force, which
//! may change, and rows may be repaired or restored. So the collections whose schemas refer to the
//! sought ones are read. A backend reads the rows, leaves out those that cannot match, and gives
//! each other one to [`ReferrerSearch::take`].
//!
//! That is done in the request, before the transaction of a deletion. The transaction reads the
//! documents that changed since ([`Plan`]) and never searches: all other writes wait for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use aho_corasick::AhoCorasick;
use contract::{
    CollectionName, Document, Epoch, Revision,
    access::{Identity, Right, Target},
    references::Referrer,
};

use crate::{
    decide::{
        DocumentKey,
        references::{ReferrersByDocument, Searched, Wanted, references_of},
        schemas::SchemaMap,
    },
    store::PublisherPolicy,
};

/// Most places that are named of one document.
const PLACES: usize = 20;

/// Most changes that a transaction reads to find what refers to the documents that it deletes.
const CHANGES: u64 = 1_000;
/// Most bytes of these records. The documents that are read after them are as large at most.
const CHANGE_BYTES: usize = 8 << 20;

/// What a transaction reads to find what refers to the documents that it wants to delete. With more
/// changes than that, or other schemas, the deletion is searched again before another transaction.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nothing referred to these; the changes since may.
    pub(super) searched: BTreeSet<DocumentKey>,
    /// After which revision of each collection a change may refer to them.
    pub(super) since: BTreeMap<CollectionName, Revision>,
}

/// What is left of the work that a [`Plan`] may take.
pub(super) struct Bounds {
    changes: u64,
    bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            changes: CHANGES,
            bytes: CHANGE_BYTES,
        }
    }
}

impl Bounds {
    /// Takes a number of changes. `false` when they are too many.
    pub(super) fn take_changes(&mut self, changes: u64) -> bool {
        let left = self.changes.checked_sub(changes);
        self.changes = left.unwrap_or(0);
        left.is_some()
    }

    /// Takes the bytes of a record. `false` when they are too many.
    pub(super) fn take_bytes(&mut self, bytes: usize) -> bool {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.unwrap_or(0);
        left.is_some()
    }
}

impl Plan {
    pub(super) fn new(policy: &PublisherPolicy, wanted: &Wanted, epoch: Epoch) -> Self {
        let schemas = policy.rules.schemas.all();
        let mut plan = Self::default();
        for (key, searched) in &wanted.referred {
            // By other schemas other values refer.
            let searched = searched.as_ref().filter(|searched| {
                searched.epoch == epoch && Arc::ptr_eq(&searched.schemas, &schemas)
            });
            let Some(searched) = searched else {
                continue;
            };
            plan.searched.insert(key.clone());
            for (collection, revision) in &searched.revisions {
                let since = plan.since.entry(collection.clone()).or_insert(*revision);
                *since = (*since).min(*revision);
            }
        }
        plan
    }
}

/// A search for what refers to some documents.
pub(super) struct ReferrerSearch {
    schemas: Arc<SchemaMap>,
    sought: BTreeSet<DocumentKey>,
    /// Referring documents that are enough for each sought one.
    limit: usize,
    found: ReferrersByDocument,
    /// Only documents that it may read count; `None` = all.
    reader: Option<Identity>,
    /// How many documents refer to each sought one, as far as they were read.
    documents: BTreeMap<DocumentKey, usize>,
}

/// What is to be read of one collection.
pub(super) struct Referring {
    /// The collection.
    pub(super) collection: CollectionName,
    /// The sought documents to which its documents may refer.
    pub(super) sought: Vec<DocumentKey>,
    /// Finds their ids, as they are written in canonical JSON.
    ids: AhoCorasick,
}

impl Referring {
    /// Whether a stored value may refer to a sought document: it has an id of one somewhere.
    pub(super) fn may_match(&self, value: &[u8]) -> bool {
        self.ids.is_match(value)
    }

    /// The paths of members at which a value may refer to a sought document; `None` when there is
    /// no such list.
    pub(super) fn paths(&self, search: &ReferrerSearch) -> Option<BTreeSet<Vec<String>>> {
        let rules = search.schemas.get(&self.collection)?.references()?;
        let targets: BTreeSet<_> = self.sought.iter().map(|(target, _id)| target).collect();
        let mut paths = BTreeSet::new();
        for target in targets {
            paths.extend(rules.paths(target)?);
        }
        Some(paths)
    }
}

impl ReferrerSearch {
    pub(super) fn new(
        policy: &PublisherPolicy,
        sought: BTreeSet<DocumentKey>,
        limit: usize,
    ) -> Self {
        Self {
            schemas: policy.rules.schemas.all(),
            sought,
            limit,
            reader: None,
            found: BTreeMap::new(),
            documents: BTreeMap::new(),
        }
    }

    /// The same, for a reader that is told only what it may read.
    pub(super) fn shown_to(mut self, reader: Identity) -> Self {
        self.reader = Some(reader);
        self
    }

    /// The collections to read, of those that are served.
    pub(super) fn collections(
        &self,
        served: &BTreeSet<CollectionName>,
    ) -> anyhow::Result<Vec<Referring>> {
        let mut collections = Vec::new();
        for (collection, schema) in &*self.schemas {
            let Some(rules) = schema.references() else {
                continue;
            };
            let targets = rules.targets();
            let sought = self.sought.iter();
            let sought: Vec<_> = sought
                .filter(|(target, _id)| targets.contains(target))
                .cloned()
                .collect();
            if sought.is_empty() || !served.contains(collection) {
                continue;
            }
            // No character of an id is escaped in JSON.
            let ids = sought.iter().map(|(_target, id)| format!("\"{id}\""));
            collections.push(Referring {
                collection: collection.clone(),
                ids: AhoCorasick::new(ids)?,
                sought,
            });
        }
        Ok(collections)
    }

    /// Takes a document of a collection that [`Self::collections`] names. `false` when no more is
    /// needed.
    pub(super) fn take(
        &mut self,
        collection: &CollectionName,
        document: &Document,
    ) -> anyhow::Result<bool> {
        let target = Target::Document(collection, document.id());
        if (self.reader.as_ref()).is_some_and(|reader| !reader.may(Right::Read, target)) {
            return Ok(true);
        }
        let references = references_of(&self.schemas, collection, document.config_data())?;
        let mut counted = HashSet::new();
        for reference in references {
            let Some(key) = reference.key().filter(|key| self.sought.contains(key)) else {
                continue;
            };
            let documents = self.documents.entry(key.clone()).or_default();
            let is_new = counted.insert(key.clone());
            if is_new && *documents == self.limit {
                continue;
            }
            *documents += usize::from(is_new);
            let found = self.found.entry(key).or_default();
            let of_document = found
                .iter()
                .rev()
                .take_while(|found| (&found.collection, &found.id) == (collection, document.id()));
            if is_new || (1..PLACES).contains(&of_document.count()) {
                found.push(Referrer {
                    collection: collection.clone(),
                    id: document.id().clone(),
                    pointer: reference.pointer,
                });
            }
        }
        let enough = |key| self.documents.get(key) >= Some(&self.limit);
        Ok(!self.sought.iter().all(enough))
    }

    /// What is known after a search at these revisions: nothing refers to the sought documents,
    /// besides what was found.
    pub(super) fn searched(
        &self,
        epoch: Epoch,
        revisions: BTreeMap<CollectionName, Revision>,
    ) -> Searched {
        Searched {
            schemas: self.schemas.clone(),
            epoch,
            revisions,
        }
    }

    /// What was found, ordered.
    pub(super) fn found(mut self) -> ReferrersByDocument {
        self.found.values_mut().for_each(|found| found.sort());
        self.found
    }
}

#[cfg(test)]
mod tests;
