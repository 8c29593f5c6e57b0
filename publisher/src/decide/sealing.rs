//! Secret values of documents (`x-secret`): opened before a rule looks at a value, sealed in the
//! transaction, where the revision is known.
//!
//! A value that a client gives is plain text, or the sealed form that it read before: then it stays
//! the secret that it is. Every rule is about the plain value, and every stored value is sealed.
//!
//! Keys and randomness are handed in. Nothing here is shown, logged or stored.

use std::{collections::HashMap, fmt, sync::Arc};

use contract::{
    CanonicalJson, CollectionName, Document, Revision,
    problem::Violation,
    references::Reference,
    secrets::{SEALED_MEMBER, SecretPlaces, is_within, sealed_text, sealed_values},
};
use secrets::{Draft, Entropy, Keyring, OpenError, Place, Sealed, SecretKeys, system_entropy};
use serde_json::Value;

use super::value::{canonical_of, parse, value_of};
use crate::decide::{Action, DocumentKey, Rules, Write, WriteError};

/// Most secrets of a document: each one is encrypted in the transaction.
const SECRETS: usize = 256;

/// What secrets are sealed and opened with.
#[derive(Clone)]
pub struct Sealing {
    keys: Option<Arc<SecretKeys>>,
    entropy: Entropy,
}

/// Without keys.
impl Default for Sealing {
    fn default() -> Self {
        Self {
            keys: None,
            entropy: system_entropy,
        }
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealing({:?})", self.keys)
    }
}

impl Sealing {
    /// With these keys.
    pub fn with_keys(keys: Arc<SecretKeys>) -> Self {
        Self {
            keys: Some(keys),
            ..Self::default()
        }
    }

    /// The keys, if there are any.
    pub fn keys(&self) -> Option<&Arc<SecretKeys>> {
        self.keys.as_ref()
    }

    fn keyring(&self) -> Result<Arc<Keyring>, WriteError> {
        let keys = self.keys.as_ref();
        keys.map(|keys| keys.keyring()).ok_or_else(|| {
            WriteError::NoSecretKey(
                "The document has secrets (x-secret in its schema) and this publisher has no key for \
                 them: set AURA_CONFIGURATION_SECRET_KEYS_FILE"
                    .to_owned(),
            )
        })
    }
}

/// A new value of a document, valid and not yet sealed.
#[derive(Debug, Clone)]
pub enum NewValue {
    /// It has no secrets.
    Open(CanonicalJson),
    /// It has secrets.
    Draft(Draft),
}

impl NewValue {
    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Open(value) => value.as_str().len(),
            Self::Draft(draft) => draft.max_len(),
        }
    }

    /// Whether a stored text is this value.
    pub(super) fn is(&self, text: &[u8]) -> bool {
        match self {
            Self::Open(value) => value.as_str().as_bytes() == text,
            Self::Draft(draft) => std::str::from_utf8(text).is_ok_and(|text| draft.is(text)),
        }
    }
}

impl Rules {
    /// The value that a write gives to its document, checked, with its references; `None` for a
    /// deletion. The value is made of `made_of`; `stored` is the document as far as it is known.
    ///
    /// # Errors
    /// When the value breaks a constraint, or a secret cannot be opened or sealed.
    pub(super) fn new_value(
        &self,
        write: &Write,
        made_of: Option<&Document>,
        stored: Option<&Document>,
    ) -> Result<Option<(NewValue, Vec<Reference>)>, WriteError> {
        let schema = self.schemas.get(&write.collection);
        let Some(places) = schema.as_ref().and_then(|schema| schema.secrets()) else {
            let Some(value) = value_of(&write.action, made_of)? else {
                return Ok(None);
            };
            let references = self.check(&write.collection, &write.id, &value)?;
            return Ok(Some((NewValue::Open(value), references)));
        };
        let action = self.opened_action(write, places, stored)?;
        let made_of = made_of.map(|document| self.opened_document(write, places, document));
        let Some(value) = value_of(&action, made_of.transpose()?.as_ref())? else {
            return Ok(None);
        };
        let document = parse(value.as_str().as_bytes())?;
        let pointers = places.of_value(&document);
        self.check_places(&document, &pointers)?;
        let mut references = self.check(&write.collection, &write.id, &value)?;
        if pointers.is_empty() {
            return Ok(Some((NewValue::Open(value), references)));
        }
        // A secret refers to nothing, whatever its schema says.
        references.retain(|reference| {
            let mut within = pointers.iter();
            !within.any(|secret| is_within(&reference.pointer, secret))
        });
        let draft = Draft::new(document, &pointers, self.secrets.entropy);
        let draft = draft.map_err(WriteError::InvalidValue)?;
        // What is stored and read back is the sealed form.
        if draft.max_len() > self.document_limit {
            return Err(WriteError::TooLarge {
                limit: self.document_limit,
            });
        }
        Ok(Some((NewValue::Draft(draft), references)))
    }

    /// The value as it is stored in `revision`.
    ///
    /// # Errors
    /// When there is no key.
    pub(super) fn sealed(
        &self,
        value: &NewValue,
        (collection, id): &DocumentKey,
        revision: Revision,
        stored: Option<&Document>,
    ) -> Result<CanonicalJson, WriteError> {
        let draft = match value {
            NewValue::Open(value) => return Ok(value.clone()),
            NewValue::Draft(draft) => draft,
        };
        let keys = self.secrets.keyring()?;
        let stored = stored
            .map(|stored| parse(stored.config_data()))
            .transpose()?;
        let stored = stored.as_ref();
        let entropy = self.secrets.entropy;
        let sealed = draft.seal(collection, id, revision, stored, &keys, entropy);
        sealed.map_err(WriteError::InvalidValue)
    }

    /// A stored document with its secrets wrapped by the active key.
    ///
    /// # Errors
    /// When there is no key, or the document cannot be read.
    pub(super) fn rewrapped(
        &self,
        (collection, id): &DocumentKey,
        stored: &Document,
    ) -> Result<CanonicalJson, WriteError> {
        let keys = self.secrets.keyring()?;
        let mut document = parse(stored.config_data())?;
        secrets::document::rewrap(&mut document, collection, id, &keys, self.secrets.entropy);
        canonical_of(&document)
    }

    /// A stored document with its secrets in plain text: for a reader who may see them.
    ///
    /// # Errors
    /// [`WriteError::NoSecretKey`] when a secret cannot be opened.
    pub fn revealed(
        &self,
        collection: &CollectionName,
        document: &Document,
    ) -> Result<CanonicalJson, WriteError> {
        let mut value = parse(document.config_data())?;
        if !sealed_values(&value).is_empty() {
            let keys = self.secrets.keyring()?;
            let (id, revision) = (document.id(), document.revision());
            secrets::document::open(&mut value, collection, id, Some(revision), &keys)
                .map_err(|unopened| WriteError::NoSecretKey(unopened.to_string()))?;
        }
        canonical_of(&value)
    }

    /// The action with the sealed values of its value or patch opened.
    fn opened_action(
        &self,
        write: &Write,
        places: &SecretPlaces,
        stored: Option<&Document>,
    ) -> Result<Action, WriteError> {
        let open = |given: &CanonicalJson| self.opened_given(write, places, given, stored);
        Ok(match &write.action {
            Action::Create(given) => Action::Create(open(given)?),
            Action::Put(given) => Action::Put(open(given)?),
            Action::Replace(given) => Action::Replace(open(given)?),
            Action::Patch(given) => Action::Patch(open(given)?),
            Action::Delete => Action::Delete,
            Action::Rewrap => Action::Rewrap,
        })
    }

    fn opened_given(
        &self,
        write: &Write,
        places: &SecretPlaces,
        given: &CanonicalJson,
        stored: Option<&Document>,
    ) -> Result<CanonicalJson, WriteError> {
        // Without a sealed value in it there is nothing to open.
        if !given.as_str().contains(SEALED_MEMBER) {
            return Ok(given.clone());
        }
        let mut value = parse(given.as_str().as_bytes())?;
        let stored = stored
            .map(|stored| parse(stored.config_data()))
            .transpose()?;
        let mut moved = HashMap::<&str, Vec<String>>::new();
        for (pointer, text) in stored.iter().flat_map(sealed_values) {
            moved.entry(text).or_default().push(pointer);
        }
        for pointer in places.of_value(&value) {
            let Some(text) = value.pointer(&pointer).and_then(sealed_text) else {
                continue;
            };
            // An element of an array may have another index than before.
            let before = moved.get(text).into_iter().flatten();
            let before = before.filter(|before| {
                stored
                    .as_ref()
                    .is_some_and(|stored| is_moved_element((stored, before), (&value, &pointer)))
            });
            let tried = std::iter::once(&pointer).chain(before);
            let opened = self.opened_text(write, text, tried).map_err(|reason| {
                let detail =
                    format!("the sealed value is refused: {reason}; give it in plain text");
                violation(pointer.clone(), detail)
            })??;
            if let Some(place) = value.pointer_mut(&pointer) {
                *place = opened;
            }
        }
        canonical_of(&value)
    }

    /// The plain value of a sealed text that was sealed for one of some places.
    fn opened_text<'a>(
        &self,
        write: &Write,
        text: &str,
        pointers: impl Iterator<Item = &'a String>,
    ) -> Result<Result<Value, WriteError>, OpenError> {
        let keys = match self.secrets.keyring() {
            Ok(keys) => keys,
            Err(error) => return Ok(Err(error)),
        };
        let sealed: Sealed = text.parse()?;
        let mut refused = OpenError::Form;
        for pointer in pointers {
            let place = Place {
                collection: &write.collection,
                id: &write.id,
                pointer,
            };
            match sealed.open(place, &keys) {
                Ok(plain) => return plain.to_value().map(Ok).ok_or(OpenError::Refused),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// A stored document with the secrets opened that can be opened. The others stay sealed, because
    /// the write may replace them. So does a value whose place is no longer secret: it would be stored
    /// in plain text.
    fn opened_document(
        &self,
        write: &Write,
        places: &SecretPlaces,
        stored: &Document,
    ) -> Result<Document, WriteError> {
        let mut value = parse(stored.config_data())?;
        for pointer in places.of_value(&value) {
            let Some(place) = value.pointer_mut(&pointer) else {
                continue;
            };
            let Some(text) = sealed_text(place) else {
                continue;
            };
            let opened = self.opened_text(write, text, std::iter::once(&pointer));
            if let Ok(Ok(plain)) = opened {
                *place = plain;
            }
        }
        let value = canonical_of(&value)?;
        Ok(Document::new(write.id.clone(), stored.revision(), &value))
    }

    /// Checks what stands at the secret places of a new value.
    fn check_places(&self, document: &Value, pointers: &[String]) -> Result<(), WriteError> {
        if let Some(beyond) = pointers.get(SECRETS) {
            let detail = format!("a document has at most {SECRETS} secrets");
            return Err(violation(beyond.clone(), detail));
        }
        for pointer in pointers {
            let value = document.pointer(pointer);
            let is_form = value.and_then(Value::as_object);
            if !is_form.is_some_and(|members| members.contains_key(SEALED_MEMBER)) {
                continue;
            }
            // Not opened: it is of the stored document, or it is no sealed value at all.
            let Some(text) = value.and_then(sealed_text) else {
                let detail = format!("a secret has no member {SEALED_MEMBER}");
                return Err(violation(pointer.clone(), detail));
            };
            let keys = self.secrets.keyring()?;
            let key = text.parse::<Sealed>().map(|sealed| sealed.key().clone());
            let known = key.is_ok_and(|key| keys.ids().any(|id| *id == key));
            let reason = if known {
                "it was changed in the store"
            } else {
                "this publisher does not have its key"
            };
            return Err(WriteError::NoSecretKey(format!(
                "The stored secret at {pointer} cannot be opened, because {reason}; write it again in \
                 plain text"
            )));
        }
        Ok(())
    }
}

/// Whether a place of the stored document and one of its new value differ in the indexes of arrays
/// only.
fn is_moved_element((stored, before): (&Value, &str), (given, now): (&Value, &str)) -> bool {
    let tokens = |pointer: &str| -> Vec<String> {
        let tokens = pointer.split('/').skip(1);
        tokens.map(|token| format!("/{token}")).collect()
    };
    let (before, now) = (tokens(before), tokens(now));
    let (mut stored, mut given) = (stored, given);
    for (old, new) in before.iter().zip(&now) {
        let (Some(inner), Some(new_inner)) = (stored.pointer(old), given.pointer(new)) else {
            return false;
        };
        if old != new && !(stored.is_array() && given.is_array()) {
            return false;
        }
        (stored, given) = (inner, new_inner);
    }
    before.len() == now.len()
}

fn violation(pointer: String, detail: String) -> WriteError {
    WriteError::Schema {
        violations: vec![Violation { pointer, detail }],
        more: false,
    }
}
