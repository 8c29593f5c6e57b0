//! The rule about references between documents: no write leaves a reference without its document.
//!
//! It is checked at the end of each command, over the state that the command leaves. So a change set
//! may create or delete documents that refer to each other, in any order. Only what a command adds
//! or takes away counts: a reference that had no document before does not block other edits of its
//! document.
//!
//! Whether documents exist that the group does not write, and which documents refer to those that it
//! deletes, are facts that the store has to read: [`Rules::wanted`] names them. Nothing is read from
//! a store here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use contract::{
    Change, CollectionName, Document, Revision, canonical,
    references::{Reference, Referrer},
};

mod ahead;
mod refusal;

pub use ahead::Searched;
pub(crate) use ahead::{deleted_in_use, refused};
use refusal::Dangling;
pub(crate) use refusal::detail;

use super::{
    Action, Checked, Command, DocumentKey, IN_TRANSACTION_BYTES, Rules, WorkingSet, Write,
    WriteError, schemas::SchemaMap,
};

/// Most references that a refusal names.
pub(super) const NAMED: usize = 20;
/// Most different documents to which the writes of one command add references. A group takes no
/// further command when its commands reach it.
pub(super) const ADDED_REFERENCES: usize = 10_000;

/// The facts that a group needs besides its own documents.
#[derive(Debug, Default, Clone)]
pub struct Wanted {
    /// Whether each of these exists.
    pub documents: BTreeSet<DocumentKey>,
    /// What refers to each of these: at least `referrers_limit` documents, or all. With what was
    /// searched before, if it was.
    pub referred: BTreeMap<DocumentKey, Option<Arc<Searched>>>,
    /// So many that enough are left when the group changed some of them.
    pub referrers_limit: usize,
}

impl Wanted {
    /// Whether no fact is needed.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.referred.is_empty()
    }
}

/// The facts that a store read, in the state before the group.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// Those of the wanted documents that exist.
    pub existing: HashSet<DocumentKey>,
    /// By document, what refers to it.
    pub referrers: ReferrersByDocument,
    /// Those of the wanted documents of which it is known what refers to them. The others have to be
    /// searched again, before another transaction.
    pub searched: BTreeSet<DocumentKey>,
    /// What was asked for.
    pub wanted: Wanted,
}

/// What refers to each of some documents.
pub type ReferrersByDocument = BTreeMap<DocumentKey, Vec<Referrer>>;

impl Rules {
    /// The facts that [`Rules::evaluate`] needs for a group, in addition to what is in the working
    /// set. Commands later in the group may need more, if one before them is refused for its
    /// references; they are then left for a later group.
    pub fn wanted(
        &self,
        working_set: &WorkingSet,
        group: &[Command],
        now: DateTime<Utc>,
    ) -> Wanted {
        let mut check = ReferenceCheck::new(self.schemas.all(), group);
        if check.group.is_empty() {
            return Wanted::default();
        }
        check.collected = Some(Wanted {
            referrers_limit: check.group.len() + NAMED + 1,
            ..Wanted::default()
        });
        self.evaluate_with(working_set.clone(), group, now, &mut check);
        check.collected.unwrap_or_default()
    }
}

/// The check of the commands of one group.
pub(super) struct ReferenceCheck {
    /// The same ones for the whole group.
    schemas: Arc<SchemaMap>,
    /// The documents that the group writes: the working set has those that exist. Empty when no write
    /// of the group concerns the rule.
    group: HashSet<DocumentKey>,
    /// The references of documents of the working set, where they were needed.
    references: HashMap<(DocumentKey, Revision), Arc<[Reference]>>,
    /// The documents to which accepted commands added references.
    referred: BTreeSet<DocumentKey>,
    /// When set, facts are collected and nothing is refused.
    collected: Option<Wanted>,
    /// A fact is missing: the command that needs it is not decided.
    lacks_facts: bool,
}

impl ReferenceCheck {
    pub(super) fn new(schemas: Arc<SchemaMap>, group: &[Command]) -> Self {
        let mut check = Self {
            schemas,
            group: HashSet::new(),
            references: HashMap::new(),
            referred: BTreeSet::new(),
            collected: None,
            lacks_facts: false,
        };
        // Most groups do not concern the rule: their keys are not copied.
        let mut writes = group.iter().flat_map(Command::writes);
        if writes.any(|write| check.concerns(write)) {
            let writes = group.iter().flat_map(Command::writes);
            check.group = writes.map(Write::key).collect();
        }
        check
    }

    /// Whether a write can add or take away what the rule is about.
    pub(super) fn concerns(&self, write: &Write) -> bool {
        self.has_rules(&write.collection)
            || (matches!(write.action, Action::Delete)
                && is_referred_to(&self.schemas, &write.collection))
    }

    fn has_rules(&self, collection: &CollectionName) -> bool {
        self.schemas
            .get(collection)
            .is_some_and(|schema| schema.references().is_some())
    }

    /// Whether the last command was not decided, because a fact is missing.
    pub(super) fn lacks_facts(&self) -> bool {
        self.lacks_facts
    }

    /// Whether the group needs as many facts as one transaction may read.
    pub(super) fn is_full(&self) -> bool {
        let collected = self.collected.as_ref();
        collected.is_some_and(|wanted| wanted.documents.len() >= ADDED_REFERENCES)
    }

    /// The documents to which references were added and that `changes` do not write. A store with
    /// several writers has to write them, so that nobody deletes one at the same time.
    pub(super) fn referred(mut self, changes: &[Change]) -> BTreeSet<DocumentKey> {
        if !self.referred.is_empty() {
            for change in changes {
                let key = (change.collection.clone(), change.id.clone());
                self.referred.remove(&key);
            }
        }
        self.referred
    }

    /// Checks the references after a command. `before` is the state before it, `after` has the
    /// documents of its writes as they are after it.
    ///
    /// # Errors
    /// [`WriteError::DanglingReference`]; [`WriteError::Outdated`] for a deletion of which it is not
    /// known what refers to its document; any other when [`Self::lacks_facts`].
    pub(super) fn check(
        &mut self,
        before: &WorkingSet,
        after: &WorkingSet,
        writes: &[Write],
        in_set: bool,
    ) -> Result<(), WriteError> {
        let keys: HashSet<_> = writes.iter().map(Write::key).collect();
        let checked = self.check_keys(before, after, writes, &keys, in_set);
        if checked.is_err() {
            // The next command makes other values at the same revisions.
            self.references
                .retain(|(key, _revision), _| !keys.contains(key));
        }
        checked
    }

    fn check_keys(
        &mut self,
        before: &WorkingSet,
        after: &WorkingSet,
        writes: &[Write],
        keys: &HashSet<DocumentKey>,
        in_set: bool,
    ) -> Result<(), WriteError> {
        let state = State {
            before,
            after,
            keys,
        };
        let mut added = BTreeSet::new();
        let mut dangling = Dangling::default();
        for (index, write) in writes.iter().enumerate() {
            let key = write.key();
            let index = in_set.then_some(index);
            match (before.documents.get(&key), after.documents.get(&key)) {
                (Some(old), Some(new)) if old.revision() == new.revision() => {}
                (old, Some(new)) => {
                    for reference in self.added(write, &key, old, new)? {
                        let exists = match reference.key() {
                            Some(target) => {
                                let exists = self.exists(&state, &target);
                                added.insert(target);
                                exists
                            }
                            None => Some(false),
                        };
                        match exists {
                            Some(true) => {}
                            // What was without its document before does not block an edit.
                            Some(false) if self.had(&key, old, &reference)? => {}
                            Some(false) => dangling.add(&key, reference, index, true),
                            None => self.lacks_facts = true,
                        }
                    }
                }
                (Some(_deleted), None) if is_referred_to(&self.schemas, &key.0) => {
                    for (referrer, pointer) in self.referrers(&state, &key, write)? {
                        let reference = Reference {
                            pointer,
                            collection: key.0.clone(),
                            id: key.1.to_string(),
                        };
                        dangling.add(&referrer, reference, index, false);
                    }
                }
                _nothing_referred => {}
            }
            if added.len() > ADDED_REFERENCES {
                return Err(WriteError::SetTooLarge {
                    index: index.unwrap_or(0),
                });
            }
        }
        if self.collected.is_some() {
            return Ok(());
        }
        if self.lacks_facts {
            return Err(WriteError::NotCommitted);
        }
        dangling.into_result()?;
        self.referred.extend(added);
        Ok(())
    }

    /// The references of a new value that its document did not have, each target once.
    fn added(
        &mut self,
        write: &Write,
        key: &DocumentKey,
        old: Option<&Document>,
        new: &Document,
    ) -> Result<Vec<Reference>, WriteError> {
        if !self.has_rules(&write.collection) {
            return Ok(Vec::new());
        }
        let checked = write.checked.as_ref();
        let known = checked.and_then(|checked| checked.references_of(new.config_data()));
        let references = match known {
            Some(known) => {
                let id = (key.clone(), new.revision());
                self.references.entry(id).or_insert(known).clone()
            }
            None => self.references(key, new)?,
        };
        if references.is_empty() {
            return Ok(Vec::new());
        }
        // A large value is not read again for this, because that would delay the writes of others.
        // Then all of its references count as new, and `had` is asked for the few in question.
        let old = old.filter(|old| old.config_data().len() <= IN_TRANSACTION_BYTES);
        let mut seen = match old {
            Some(old) => targets(&self.references(key, old)?),
            None => HashSet::new(),
        };
        let added = references
            .iter()
            .filter(|reference| seen.insert((reference.collection.clone(), reference.id.clone())));
        Ok(added.cloned().collect())
    }

    /// Whether a document had a reference to the same document before.
    fn had(
        &mut self,
        key: &DocumentKey,
        old: Option<&Document>,
        reference: &Reference,
    ) -> Result<bool, WriteError> {
        let Some(old) = old else {
            return Ok(false);
        };
        let target = (reference.collection.clone(), reference.id.clone());
        Ok(targets(&self.references(key, old)?).contains(&target))
    }

    /// Whether a document exists after the command; `None` when that is not known.
    fn exists(&mut self, state: &State<'_>, key: &DocumentKey) -> Option<bool> {
        if self.group.contains(key) {
            return Some(state.document(key).is_some());
        }
        if let Some(wanted) = &mut self.collected {
            wanted.documents.insert(key.clone());
            return Some(true);
        }
        let facts = &state.before.facts;
        let known = facts.wanted.documents.contains(key);
        known.then(|| facts.existing.contains(key))
    }

    /// What refers to a document after the command, and where.
    fn referrers(
        &mut self,
        state: &State<'_>,
        key: &DocumentKey,
        write: &Write,
    ) -> Result<Vec<(DocumentKey, String)>, WriteError> {
        if let Some(wanted) = &mut self.collected {
            let searched = write.checked.as_ref().and_then(Checked::searched);
            wanted.referred.insert(key.clone(), searched);
            return Ok(Vec::new());
        }
        let facts = &state.before.facts;
        if !facts.wanted.referred.contains_key(key) {
            self.lacks_facts = true;
            return Ok(Vec::new());
        }
        if !facts.searched.contains(key) {
            return Err(WriteError::Outdated);
        }
        let stored = facts.referrers.get(key).into_iter().flatten();
        let mut referrers: Vec<_> = stored
            .map(|referrer| {
                let by = (referrer.collection.clone(), referrer.id.clone());
                (by, referrer.pointer.clone())
            })
            // Those are as the commands so far left them, and not as they are stored.
            .filter(|(by, _pointer)| !self.group.contains(by))
            .collect();
        let target = (key.0.clone(), key.1.to_string());
        let mut written: Vec<_> = self.group.iter().cloned().collect();
        written.sort_unstable();
        for by in written {
            if let Some(document) = state.document(&by) {
                let references = self.references(&by, document)?;
                let to_key = references.iter().filter(|reference| {
                    (&reference.collection, &reference.id) == (&target.0, &target.1)
                });
                referrers.extend(to_key.map(|found| (by.clone(), found.pointer.clone())));
            }
        }
        Ok(referrers)
    }

    /// The references of a document of the working set.
    fn references(
        &mut self,
        key: &DocumentKey,
        document: &Document,
    ) -> Result<Arc<[Reference]>, WriteError> {
        let id = (key.clone(), document.revision());
        if let Some(known) = self.references.get(&id) {
            return Ok(known.clone());
        }
        let references = references_of(&self.schemas, &key.0, document.config_data())?;
        let references: Arc<[_]> = references.into();
        self.references.insert(id, references.clone());
        Ok(references)
    }
}

/// Whether some schema refers to the documents of a collection.
fn is_referred_to(schemas: &SchemaMap, collection: &CollectionName) -> bool {
    let mut rules = schemas.values().filter_map(|schema| schema.references());
    rules.any(|rules| rules.has_target(collection))
}

/// The references of a stored value, by the schema of its collection.
///
/// # Errors
/// [`WriteError::Unreadable`] when the value is no JSON.
pub fn references_of(
    schemas: &SchemaMap,
    collection: &CollectionName,
    value: &[u8],
) -> Result<Vec<Reference>, WriteError> {
    let schema = schemas.get(collection);
    let Some(schema) = schema.filter(|schema| schema.references().is_some()) else {
        return Ok(Vec::new());
    };
    let value = canonical::value(value);
    let value = value.map_err(|error| WriteError::Unreadable(error.to_string()))?;
    Ok(schema.references_of(&value))
}

/// The targets of some references.
fn targets(references: &[Reference]) -> HashSet<(CollectionName, String)> {
    let targets = references.iter();
    targets
        .map(|reference| (reference.collection.clone(), reference.id.clone()))
        .collect()
}

/// The documents of a group before and after one of its commands.
struct State<'a> {
    before: &'a WorkingSet,
    after: &'a WorkingSet,
    /// The documents that the command writes.
    keys: &'a HashSet<DocumentKey>,
}

impl<'a> State<'a> {
    /// A document of the group after the command.
    fn document(&self, key: &DocumentKey) -> Option<&'a Document> {
        let of = if self.keys.contains(key) {
            self.after
        } else {
            self.before
        };
        of.documents.get(key)
    }
}
