//! The document that a key names: the key is its id, and the collection is in the metadata of the call or
//! in the component file.
//!
//! Sidecars put the app id before a key unless the component file says otherwise, and take no key with
//! `||` of an application. So a collection cannot be a part of a key.

use std::collections::HashMap;

use contract::{CollectionName, DocumentId};
use replica::Config;
use tonic::Status;

use crate::status::{invalid, require_followed, shortened};

/// The metadata that names a collection, of a call and of a component file.
pub(crate) const COLLECTION: &str = "collection";

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) collection: CollectionName,
    pub(crate) id: DocumentId,
}

impl Key {
    /// Reads a key. `default` is the collection of the component file.
    ///
    /// # Errors
    /// When the key is no id, or there is no collection that the replica follows.
    pub(crate) fn read(
        key: &str,
        metadata: &HashMap<String, String>,
        default: Option<CollectionName>,
        config: &Config,
    ) -> Result<Self, Status> {
        if key.contains("||") {
            let key = shortened(key);
            let text = format!(
                "key {key}: the sidecar put a prefix before it: set keyPrefix to none in the component file"
            );
            return Err(invalid("key", text));
        }
        let id = key
            .parse()
            .map_err(|error| invalid("key", format!("key: {error}")))?;
        let named = metadata
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(COLLECTION));
        let collection = match named {
            Some((_, name)) => collection(name)?,
            None => default.ok_or_else(|| {
                let text = format!(
                    "key {key}: it has no collection: name one in the metadata \"collection\" of the \
                     component file, or of the call"
                );
                invalid(COLLECTION, text)
            })?,
        };
        require_followed(config, &collection, COLLECTION, || {
            format!("collection {collection} is not followed by this component")
        })?;
        Ok(Self { collection, id })
    }
}

/// The name of a collection.
///
/// # Errors
/// When it is none.
pub(crate) fn collection(name: &str) -> Result<CollectionName, Status> {
    name.parse()
        .map_err(|error| invalid(COLLECTION, format!("collection: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_an_id_in_a_collection_that_is_followed() {
        let config = Config::new("a", ["http://127.0.0.1:1"], ["A", "B"]).expect("right");
        let default = || Some("A".parse().expect("a name"));
        let read = |key: &str, metadata: &[(&str, &str)], default| {
            let metadata = metadata
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            let key = Key::read(key, &metadata.collect(), default, &config)?;
            Ok::<_, Status>(format!("{}/{}", key.collection, key.id))
        };
        assert_eq!(read("x", &[], default()).expect("right"), "A/x");
        let named = [("Collection", "B")];
        assert_eq!(read("x", &named, default()).expect("right"), "B/x");
        for (key, metadata, default, words) in [
            ("app||x", &[][..], default(), "keyPrefix"),
            ("x y", &[], default(), "key"),
            ("x", &[], None, "has no collection"),
            ("x", &[("collection", "C")], default(), "is not followed"),
            ("x", &[("collection", "no name")], default(), "collection"),
        ] {
            let refusal = read(key, metadata, default).expect_err(words);
            assert!(refusal.message().contains(words), "{refusal}");
        }
    }
}
