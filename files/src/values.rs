//! What templates see: a variable for each collection, which maps ids to documents.
//!
//! Documents are read when a template reads them. The last one is remembered, for messages, and so is whether
//! one had secrets. A secret that cannot be opened is an error at the place where it is used, and nowhere
//! else.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use contract::{CollectionName, DocumentId, secrets::sealed_text};
use minijinja::{
    Error, ErrorKind, Value,
    value::{Enumerator, Object},
};
use secrets::Keyring;
use serde_json::Value as Json;
use state::Root;

use crate::opening;

/// What one rendering has read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// `COLLECTION/ID` of the last document.
    last: Mutex<Option<Arc<str>>>,
    /// Whether a document had secrets in plain text.
    secrets: AtomicBool,
}

impl Reading {
    pub(crate) fn last(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_deref().map(str::to_owned)
    }

    pub(crate) fn has_secrets(&self) -> bool {
        self.secrets.load(Ordering::Relaxed)
    }

    fn note(&self, document: &Arc<str>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(document));
    }
}

/// A collection of a view.
pub(crate) struct CollectionValue {
    pub(crate) name: CollectionName,
    pub(crate) root: Root,
    pub(crate) keys: Option<Arc<Keyring>>,
    pub(crate) reading: Arc<Reading>,
}

impl fmt::Debug for CollectionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the collection {}", self.name)
    }
}

impl CollectionValue {
    fn document(&self, id: &str) -> Option<Value> {
        let id: DocumentId = id.parse().ok()?;
        let document = self.root.get(&self.name, &id)?;
        let shown: Arc<str> = opening::name_of(&self.name, document).into();
        self.reading.note(&shown);
        let opened = match opening::open(&self.name, document, self.keys.as_deref()) {
            Ok(opened) => opened,
            Err(error) => return Some(invalid(error.to_string())),
        };
        if opened.has_secrets {
            self.reading.secrets.store(true, Ordering::Relaxed);
        }
        let value = value_of(&opened.value);
        if !opened.value.is_object() {
            return Some(value);
        }
        Some(Value::from_object(DocumentValue {
            name: shown,
            value,
            reading: Arc::clone(&self.reading),
        }))
    }
}

impl Object for CollectionValue {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.document(key.as_str()?)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let held = self.root.collection(&self.name);
        let documents = held.into_iter().flat_map(|held| held.documents());
        Enumerator::Values(
            documents
                .map(|document| Value::from(document.id().as_str()))
                .collect(),
        )
    }
}

/// A document that is an object. It is known when a template reads a member of it.
struct DocumentValue {
    name: Arc<str>,
    value: Value,
    reading: Arc<Reading>,
}

/// Without its value, which may have secrets.
impl fmt::Debug for DocumentValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the document {}", self.name)
    }
}

impl Object for DocumentValue {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.reading.note(&self.name);
        let member = self.value.get_item(key).ok()?;
        (!member.is_undefined()).then_some(member)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.reading.note(&self.name);
        match self.value.try_iter() {
            Ok(members) => Enumerator::Values(members.collect()),
            Err(_error) => Enumerator::NonEnumerable,
        }
    }
}

/// A value that fails the template which uses it.
fn invalid(reason: String) -> Value {
    Value::from(Error::new(ErrorKind::InvalidOperation, reason))
}

/// JSON as a value of templates. What is still sealed cannot be used.
fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => {
            if let Some(number) = number.as_i64() {
                Value::from(number)
            } else if let Some(number) = number.as_u64() {
                Value::from(number)
            } else {
                Value::from(number.as_f64().unwrap_or_default())
            }
        }
        Json::Array(items) => Value::from(items.iter().map(value_of).collect::<Vec<_>>()),
        Json::Object(_) if sealed_text(json).is_some() => invalid(
            "the value is a sealed secret, and this process has no secret keys \
             (AURA_CONFIGURATION_SECRET_KEYS_FILE)"
                .to_owned(),
        ),
        Json::Object(members) => {
            let members = members.iter();
            Value::from_pairs(members.map(|(name, value)| (name.as_str(), value_of(value))))
        }
    }
}
