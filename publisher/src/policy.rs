//! What a publisher is configured to serve and to enforce. The collections may grow while it runs,
//! and schemas may change; the rest is fixed for the life of the process.
//!
//! It does no I/O and decides nothing about a write; [`crate::decide`] applies its rules.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use contract::{CollectionName, references::ReferenceRules};
use service::nearest::unknown_collection;

use crate::decide::{Rules, WriteError, schemas::SchemaMap};

/// The collections of a publisher, the rules of their documents, and whether changes are published.
#[derive(Debug)]
pub struct PublisherPolicy {
    /// The collections that the publisher serves.
    pub collections: ServedCollections,
    /// What every document must satisfy.
    pub rules: Rules,
    /// Of which collections changes are published, and how much of them.
    pub broadcast: Broadcast,
}

/// Of which collections committed changes are marked as pending, to be published as events, and how
/// much an event says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Broadcast {
    /// Events are switched off.
    #[default]
    Off,
    /// Every collection has a topic, except these.
    On {
        /// Collections without a topic: nothing is published for them, and none of their changes is
        /// pending (requirement D2).
        without_topic: BTreeSet<CollectionName>,
        /// Collections whose events are id-only (requirement D1).
        id_only: IdOnly,
    },
}

/// The collections whose events are id-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdOnly {
    /// All of them, also those that are served later.
    All,
    /// These.
    Named(BTreeSet<CollectionName>),
}

impl Broadcast {
    /// Whole events of all collections.
    pub fn all() -> Self {
        Self::On {
            without_topic: BTreeSet::new(),
            id_only: IdOnly::Named(BTreeSet::new()),
        }
    }

    /// Whether the changes of a collection are published.
    pub fn publishes(&self, collection: &CollectionName) -> bool {
        match self {
            Self::Off => false,
            Self::On { without_topic, .. } => !without_topic.contains(collection),
        }
    }

    /// The collections that have no topic while others have one.
    pub fn without_topic(&self) -> BTreeSet<CollectionName> {
        match self {
            Self::Off => BTreeSet::new(),
            Self::On { without_topic, .. } => without_topic.clone(),
        }
    }

    /// Whether the events of a collection have nothing but the id of the document.
    pub fn is_id_only(&self, collection: &CollectionName) -> bool {
        match self {
            Self::Off => false,
            Self::On { id_only, .. } => match id_only {
                IdOnly::All => true,
                IdOnly::Named(named) => named.contains(collection),
            },
        }
    }
}

impl PublisherPolicy {
    /// What is wrong for the collections that the store was `written` with, one line each. Documents do
    /// not disappear when their collection is no longer served, but nobody can read them; and without
    /// its schema nothing is refused any more. Either may be a wrong folder of schemas.
    pub(crate) fn warnings(&self, written: &BTreeSet<CollectionName>) -> Vec<String> {
        let served = self.collections.all();
        let schemas = self.rules.schemas.all();
        let unserved = listed(written.difference(&served));
        let unchecked = (written.intersection(&served)).filter(|name| !schemas.contains_key(*name));
        let unchecked = listed(unchecked);
        let mut lines = Vec::new();
        if !unserved.is_empty() {
            lines.push(format!(
                "the store has collections that this publisher does not serve: {unserved}. Their \
                 documents stay; a schema, or AURA_CONFIGURATION_COLLECTIONS, serves them again"
            ));
        }
        if !unchecked.is_empty() {
            lines.push(format!(
                "the store has collections without a schema: {unchecked}. Every object is taken as \
                 their document; a file in AURA_CONFIGURATION_SCHEMAS_DIR sets the rules"
            ));
        }
        lines.extend(unserved_targets(&schemas, &served));
        let with_secrets = schemas
            .iter()
            .filter(|(_name, schema)| schema.secrets().is_some());
        let with_secrets = listed(with_secrets.map(|(name, _schema)| name));
        if self.rules.secrets.keys().is_none() && !with_secrets.is_empty() {
            lines.push(format!(
                "the schemas of {with_secrets} have secrets (x-secret) and there is no key for them: \
                 every write of a secret is refused; set AURA_CONFIGURATION_SECRET_KEYS_FILE"
            ));
        }
        lines
    }
}

/// What is wrong when schemas refer to collections that are not served, in words.
pub(crate) fn unserved_targets(
    schemas: &SchemaMap,
    served: &BTreeSet<CollectionName>,
) -> Option<String> {
    let mut unserved = BTreeSet::new();
    for (collection, schema) in schemas {
        let rules = schema
            .references()
            .filter(|_rules| served.contains(collection));
        let targets = rules.map(ReferenceRules::targets).unwrap_or_default();
        for target in targets
            .into_iter()
            .filter(|target| !served.contains(*target))
        {
            unserved.insert(format!("{target} (in the schema of {collection})"));
        }
    }
    (!unserved.is_empty()).then(|| {
        let named: Vec<_> = unserved.into_iter().collect();
        format!(
            "schemas refer by x-ref to collections that this publisher does not serve: {}. Every \
             write that adds such a reference is refused; a schema, or \
             AURA_CONFIGURATION_COLLECTIONS, serves them",
            named.join(", ")
        )
    })
}

/// Names for a log line.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a CollectionName>) -> String {
    let names: Vec<_> = names.into_iter().map(CollectionName::as_str).collect();
    names.join(", ")
}

/// The collections that a publisher serves. None is ever removed, so a reader that began with a set
/// of them is served to its end.
#[derive(Debug)]
pub struct ServedCollections {
    names: ArcSwap<BTreeSet<CollectionName>>,
    /// Whether a schema that is added to the folder while the publisher runs adds its collection.
    grow: bool,
}

impl ServedCollections {
    /// Exactly these, for the life of the process.
    pub fn fixed(names: BTreeSet<CollectionName>) -> Self {
        Self {
            names: ArcSwap::from_pointee(names),
            grow: false,
        }
    }

    /// These, and every one whose schema is added later.
    pub fn growing(names: BTreeSet<CollectionName>) -> Self {
        Self {
            grow: true,
            ..Self::fixed(names)
        }
    }

    /// Whether a schema that is added later adds its collection.
    pub fn grow(&self) -> bool {
        self.grow
    }

    /// All of them at this moment.
    pub fn all(&self) -> Arc<BTreeSet<CollectionName>> {
        self.names.load_full()
    }

    /// The collection of this name, if it is served.
    ///
    /// # Errors
    /// [`WriteError::UnknownCollection`], with the name that was probably meant.
    pub fn find(&self, name: &str) -> Result<CollectionName, WriteError> {
        let served = self.names.load();
        let found = name.parse().ok();
        found
            .filter(|name: &CollectionName| served.contains(name))
            .ok_or_else(|| WriteError::UnknownCollection(unknown_collection(name, &**served)))
    }

    /// Serves these too. Their schemas are in force, and the store has their heads: see
    /// [`crate::store::Store::add_collections`].
    pub(crate) fn add(&self, names: &BTreeSet<CollectionName>) {
        self.names
            .rcu(|served| served.union(names).cloned().collect::<BTreeSet<_>>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::schemas::Schemas;

    #[test]
    fn collections_that_lost_their_schema_or_are_not_served_are_named() {
        let names = |names: &[&str]| -> BTreeSet<CollectionName> {
            let names = names.iter().map(|name| name.parse().expect("a name"));
            names.collect()
        };
        let policy = PublisherPolicy {
            collections: ServedCollections::fixed(names(&["Blank", "Skills"])),
            rules: Rules {
                schemas: Schemas::new(SchemaMap::new()),
                document_limit: 1,
                secrets: Default::default(),
            },
            broadcast: Broadcast::Off,
        };
        let lines = policy.warnings(&names(&["Doors", "Skills"]));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("does not serve: Doors."), "{lines:?}");
        assert!(lines[1].contains("without a schema: Skills."), "{lines:?}");
        assert_eq!(policy.warnings(&names(&[])), Vec::<String>::new());
    }
}
