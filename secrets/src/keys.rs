//! The keys that data keys are wrapped with: several to open, one of them active to seal.
//!
//! The text of a keyring is JSON: `{"active": "2026-11", "keys": {"2026-11": "<32 bytes as base64>"}}`.
//! The member `next` may name the key that will be the active one: see [`exchange`](crate::exchange).
//! No error and no `Debug` shows a key. Nothing is read here.

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Most keys of a keyring.
pub(crate) const MAX_KEYS: usize = 64;
/// Most characters of the id of a key.
pub(crate) const MAX_ID: usize = 32;

/// A key.
pub(crate) type Key = Zeroizing<[u8; KEY_BYTES]>;

/// The name of a key: 1 to 32 of `A-Z a-z 0-9 _ -`. It is part of every value that was sealed with
/// the key, so it never gets another key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = KeyringError;

    fn from_str(text: &str) -> Result<Self, KeyringError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if text.is_empty() || text.len() > MAX_ID || !text.bytes().all(allowed) {
            return Err(KeyringError::Id);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Why a text is no keyring. No variant holds a part of the text, which has keys in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// It is not the JSON of a keyring.
    #[error(
        "it is not {{\"active\": ID, \"keys\": {{ID: KEY}}}} as JSON (line {line}, column {column})"
    )]
    Form {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
    },
    /// The id of a key has no valid form.
    #[error("the id of a key has 1 to 32 of the characters A-Z a-z 0-9 _ -")]
    Id,
    /// A key is no base64 of 32 bytes.
    #[error("the key {0} is not 32 bytes as base64 (make one with `confcast secret-keys`)")]
    Key(KeyId),
    /// Two ids have the same key, or one id is given twice.
    #[error("the key {0} is given twice")]
    Twice(KeyId),
    /// A key that is named is not among the keys.
    #[error("the key {0} is not among the keys")]
    Missing(KeyId),
    /// A key cannot be removed, or another one announced.
    #[error("the key {0} is the active or the next one")]
    InUse(KeyId),
    /// No key, or too many.
    #[error("a keyring has 1 to {MAX_KEYS} keys")]
    Number,
}

/// The keys of a process.
pub struct Keyring {
    pub(crate) active: KeyId,
    pub(crate) next: Option<KeyId>,
    pub(crate) keys: BTreeMap<KeyId, Key>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.keys().map(KeyId::as_str).collect();
        write!(f, "Keyring({} of {})", self.active, ids.join(", "))
    }
}

impl Keyring {
    /// Reads the text of a keyring.
    ///
    /// # Errors
    /// What is wrong with it, without a part of it.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Read {
            active: String,
            #[serde(default)]
            next: Option<String>,
            keys: Pairs,
        }
        let read: Read = serde_json::from_str(text).map_err(|error| KeyringError::Form {
            line: error.line(),
            column: error.column(),
        })?;
        if read.keys.0.is_empty() || read.keys.0.len() > MAX_KEYS {
            return Err(KeyringError::Number);
        }
        let mut keys = BTreeMap::new();
        for (id, key) in &read.keys.0 {
            let id: KeyId = id.parse()?;
            let bytes = BASE64_STANDARD.decode(key.trim()).map(Zeroizing::new);
            let bytes = bytes.map_err(|_error| KeyringError::Key(id.clone()))?;
            let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice())
                .map_err(|_length| KeyringError::Key(id.clone()))?;
            let key = Zeroizing::new(key);
            if keys.values().any(|known| *known == key) || keys.contains_key(&id) {
                return Err(KeyringError::Twice(id));
            }
            keys.insert(id, key);
        }
        let named = |id: &str| -> Result<KeyId, KeyringError> {
            let id: KeyId = id.parse()?;
            match keys.contains_key(&id) {
                true => Ok(id),
                false => Err(KeyringError::Missing(id)),
            }
        };
        let active = named(&read.active)?;
        let next = read.next.as_deref().map(named).transpose()?;
        let next = next.filter(|next| *next != active);
        Ok(Self { active, next, keys })
    }

    /// The key that new values are sealed with.
    pub fn active(&self) -> &KeyId {
        &self.active
    }

    /// The ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.keys.keys()
    }

    pub(crate) fn key(&self, id: &KeyId) -> Option<&Key> {
        self.keys.get(id)
    }
}

/// Ids and keys as they are given, also an id that is given twice.
struct Pairs(Vec<(String, Zeroizing<String>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> serde::de::Visitor<'de> for Collect {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys by id")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((id, key)) = map.next_entry::<String, String>()? {
                    pairs.push((id, Zeroizing::new(key)));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A keyring with the keys of these ids, the first of them active.
    pub(crate) fn keyring(ids: &[&str]) -> Keyring {
        let keys: serde_json::Map<_, _> = ids
            .iter()
            .map(|id| {
                let mut key = [7; KEY_BYTES];
                key[..id.len()].copy_from_slice(id.as_bytes());
                ((*id).to_owned(), BASE64_STANDARD.encode(key).into())
            })
            .collect();
        let text = serde_json::json!({"active": ids[0], "keys": keys}).to_string();
        Keyring::parse(&text).expect("a keyring")
    }

    #[test]
    fn a_wrong_keyring_is_refused_without_showing_any_of_it() {
        let key = BASE64_STANDARD.encode([1; KEY_BYTES]);
        let good = format!(r#"{{"active": "a", "keys": {{"a": "{key}"}}}}"#);
        let keyring = Keyring::parse(&good).expect("a keyring");
        assert_eq!(format!("{keyring:?}"), "Keyring(a of a)");
        for wrong in [
            "",
            "{}",
            &good.replace("\"active\"", "\"more\""),
            &good.replace("\"a\": ", "\"b c\": "),
            &good.replace("\"active\": \"a\"", "\"active\": \"b\""),
            &good.replace("{\"active\"", "{\"next\": \"b\", \"active\""),
            &good.replace(&key, &key[4..]),
            r#"{"active": "a", "keys": {}}"#,
            &good.replace("}}", &format!(", \"a\": \"{key}\"}}}}")),
            &good.replace("}}", &format!(", \"b\": \"{key}\"}}}}")),
        ] {
            let error = Keyring::parse(wrong).expect_err(wrong).to_string();
            assert!(!error.contains(&key[8..]), "{error}");
        }
    }
}
