//! The sealed values of a whole document.
//!
//! A sealed value describes itself, so no schema is needed here. Nothing is decided about who may
//! read.

use contract::{CollectionName, DocumentId, Revision, secrets::sealed_values};
use serde_json::Value;

use crate::{
    Entropy,
    keys::Keyring,
    sealed::{OpenError, Place, Sealed},
};

/// A sealed value that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the secret at {pointer} cannot be opened: {reason}")]
pub struct Unopened {
    /// JSON pointer (RFC 6901) to it.
    pub pointer: String,
    /// Why.
    pub reason: OpenError,
}

/// Replaces every sealed value of a document by its plain value, and gives the pointers to them.
/// `revision` is that of the document, if its revisions count: a value that claims to be newer than
/// its document is refused.
///
/// # Errors
/// The first value that cannot be opened; the document is then in an undefined state.
pub fn open(
    document: &mut Value,
    collection: &CollectionName,
    id: &DocumentId,
    revision: Option<Revision>,
    keys: &Keyring,
) -> Result<Vec<String>, Unopened> {
    each(document, |pointer, text| {
        let place = Place {
            collection,
            id,
            pointer,
        };
        let sealed: Sealed = text.parse()?;
        if revision.is_some_and(|revision| sealed.revision() > revision) {
            return Err(OpenError::Refused);
        }
        let plain = sealed.open(place, keys)?;
        plain.to_value().map(Some).ok_or(OpenError::Refused)
    })
}

/// Wraps the data keys of all sealed values by the active key, and gives the pointers to those that
/// had another one. A value that cannot be opened or has another form stays as it is.
pub fn rewrap(
    document: &mut Value,
    collection: &CollectionName,
    id: &DocumentId,
    keys: &Keyring,
    entropy: Entropy,
) -> Vec<String> {
    let wrapped = each(document, |pointer, text| {
        let place = Place {
            collection,
            id,
            pointer,
        };
        let Ok(sealed) = text.parse::<Sealed>() else {
            return Ok(None);
        };
        if sealed.key() == keys.active() {
            return Ok(None);
        }
        let again = sealed.rewrap(place, keys, entropy).ok();
        Ok(again.map(|sealed| form(&sealed)))
    });
    wrapped.unwrap_or_default()
}

/// How many sealed values of a document are not wrapped by the active key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct NotActive {
    /// By another key of the keyring.
    pub known: usize,
    /// By a key that is not there.
    pub unknown: usize,
}

impl NotActive {
    /// Those of a document.
    pub fn of(document: &Value, keys: &Keyring) -> Self {
        let mut found = Self::default();
        for (_pointer, text) in sealed_values(document) {
            match text.parse::<Sealed>() {
                Ok(sealed) if sealed.key() == keys.active() => {}
                Ok(sealed) if keys.ids().any(|id| id == sealed.key()) => found.known += 1,
                Ok(_) => found.unknown += 1,
                // No key opens it.
                Err(_) => {}
            }
        }
        found
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A sealed value as it stands in its document.
pub(crate) fn form(sealed: &Sealed) -> Value {
    let member = contract::secrets::SEALED_MEMBER.to_owned();
    Value::Object([(member, sealed.to_string().into())].into_iter().collect())
}

/// Replaces sealed values by what `change` gives for them, and gives the pointers to those that
/// changed.
fn each(
    document: &mut Value,
    mut change: impl FnMut(&str, &str) -> Result<Option<Value>, OpenError>,
) -> Result<Vec<String>, Unopened> {
    let mut new = Vec::new();
    for (pointer, text) in sealed_values(document) {
        match change(&pointer, text) {
            Ok(Some(value)) => new.push((pointer, value)),
            Ok(None) => {}
            Err(reason) => return Err(Unopened { pointer, reason }),
        }
    }
    let mut changed = Vec::with_capacity(new.len());
    for (pointer, value) in new {
        if let Some(place) = document.pointer_mut(&pointer) {
            *place = value;
        }
        changed.push(pointer);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Plain, keys::tests::keyring, system_entropy};

    #[test]
    fn a_document_is_opened_and_wrapped_as_a_whole() {
        let collection = "Doors".parse().expect("a name");
        let id = "d1".parse().expect("an id");
        let old = keyring(&["old"]);
        let seal = |pointer: &str, revision: Revision| {
            let place = Place {
                collection: &collection,
                id: &id,
                pointer,
            };
            let plain = Plain::of(&json!("x"));
            form(&Sealed::seal(&plain, place, revision, &old, system_entropy).expect("sealed"))
        };
        let sealed = json!({"a": seal("/a", 1), "b": [{"c/d": seal("/b/0/c~1d", 4)}], "e": 7});
        let both = keyring(&["new", "old"]);
        assert_eq!(NotActive::of(&sealed, &both).known, 2);
        assert_eq!(NotActive::of(&sealed, &keyring(&["new"])).unknown, 2);

        let mut with_another = sealed.clone();
        with_another["0"] = json!({"$secret": "v1.of another form"});
        let changed = rewrap(&mut with_another, &collection, &id, &both, system_entropy);
        assert_eq!(changed.len(), 2, "the other values are wrapped");

        let mut wrapped = sealed.clone();
        let changed = rewrap(&mut wrapped, &collection, &id, &both, system_entropy);
        assert_eq!(changed, ["/a", "/b/0/c~1d"]);
        assert!(NotActive::of(&wrapped, &both).is_empty());
        assert!(rewrap(&mut wrapped, &collection, &id, &both, system_entropy).is_empty());

        for mut document in [sealed.clone(), wrapped] {
            let pointers = open(&mut document, &collection, &id, Some(4), &both).expect("opened");
            assert_eq!(pointers, ["/a", "/b/0/c~1d"]);
            assert_eq!(document, json!({"a": "x", "b": [{"c/d": "x"}], "e": 7}));
        }
        let newer = open(&mut sealed.clone(), &collection, &id, Some(3), &both);
        assert_eq!(newer.expect_err("it is newer").pointer, "/b/0/c~1d");
        let unknown = open(
            &mut sealed.clone(),
            &collection,
            &id,
            None,
            &keyring(&["new"]),
        );
        assert_eq!(
            unknown.expect_err("no key").to_string(),
            "the secret at /a cannot be opened: it is sealed with the key old, which this process \
             does not have"
        );
    }
}
