//! Keyrings that are made and changed: the steps of a key exchange, and the text of the result.
//!
//! A new key is announced first, so that every process can open with it before a value is sealed with
//! it. Nothing is read or written here.

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use crate::{
    Entropy,
    keys::{KEY_BYTES, Key, KeyId, Keyring, KeyringError, MAX_ID, MAX_KEYS},
};

impl Keyring {
    /// A keyring with one key, which is new.
    pub fn new(id: KeyId, entropy: Entropy) -> Self {
        Self {
            keys: [(id.clone(), new_key(entropy))].into(),
            active: id,
            next: None,
        }
    }

    /// The key that will be the active one.
    pub fn next_key(&self) -> Option<&KeyId> {
        self.next.as_ref()
    }

    /// Adds a new key, which will be the active one.
    ///
    /// # Errors
    /// When there is one already, its id is in use, or the keyring is full.
    pub fn announce(&mut self, id: KeyId, entropy: Entropy) -> Result<(), KeyringError> {
        if let Some(next) = &self.next {
            return Err(KeyringError::InUse(next.clone()));
        }
        if self.keys.contains_key(&id) {
            return Err(KeyringError::Twice(id));
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(KeyringError::Number);
        }
        self.keys.insert(id.clone(), new_key(entropy));
        self.next = Some(id);
        Ok(())
    }

    /// Makes the announced key the active one. The earlier one stays, to open. `false` when none was
    /// announced.
    pub fn activate(&mut self) -> bool {
        let Some(next) = self.next.take() else {
            return false;
        };
        self.active = next;
        true
    }

    /// Removes a key. What was sealed with it cannot be opened any more.
    ///
    /// # Errors
    /// When it is not there, or is the active or the next one.
    pub fn remove(&mut self, id: &KeyId) -> Result<(), KeyringError> {
        if *id == self.active || self.next.as_ref() == Some(id) {
            return Err(KeyringError::InUse(id.clone()));
        }
        let removed = self.keys.remove(id);
        removed
            .map(drop)
            .ok_or_else(|| KeyringError::Missing(id.clone()))
    }

    /// The text, which has the keys in it.
    pub fn to_text(&self) -> Zeroizing<String> {
        // Room for all of it: a text that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(self.room()));
        // An id has no character that JSON escapes.
        let mut push = |parts: &[&str]| parts.iter().for_each(|part| text.push_str(part));
        push(&["{\n  \"active\": \"", self.active.as_str(), "\",\n"]);
        if let Some(next) = &self.next {
            push(&["  \"next\": \"", next.as_str(), "\",\n"]);
        }
        push(&["  \"keys\": {"]);
        for (index, (id, key)) in self.keys.iter().enumerate() {
            let key = Zeroizing::new(BASE64_STANDARD.encode(key.as_slice()));
            let before = if index == 0 { "\n" } else { ",\n" };
            push(&[before, "    \"", id.as_str(), "\": \"", &key, "\""]);
        }
        push(&["\n  }\n}\n"]);
        text
    }

    /// Most bytes of the text.
    fn room(&self) -> usize {
        /// Bytes of an entry or a member besides its key.
        const ENTRY: usize = MAX_ID + 16;
        (self.keys.len() + 3) * (2 * KEY_BYTES + ENTRY)
    }
}

fn new_key(entropy: Entropy) -> Key {
    let mut key = Key::default();
    entropy(key.as_mut_slice());
    key
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{OpenError, Place, Plain, Sealed, system_entropy};

    fn id(text: &str) -> KeyId {
        text.parse().expect("an id")
    }

    /// What a process reads of a file with this keyring.
    fn read(keyring: &Keyring) -> Keyring {
        let text = keyring.to_text();
        let read = Keyring::parse(&text).expect("a keyring");
        assert_eq!(read.to_text(), text);
        read
    }

    #[test]
    fn every_process_opens_what_one_a_step_ahead_or_behind_seals() {
        let collection = "A".parse().expect("a name");
        let document = "d".parse().expect("an id");
        let place = Place {
            collection: &collection,
            id: &document,
            pointer: "/password",
        };
        let seal = |keys: &Keyring| {
            let plain = Plain::of(&json!("hunter2"));
            Sealed::seal(&plain, place, 1, keys, system_entropy).expect("sealed")
        };
        let mut keyring = Keyring::new(id("1"), system_entropy);
        let first = seal(&keyring);
        let mut before = read(&keyring);
        for next in ["2", "3"] {
            keyring.announce(id(next), system_entropy).expect("added");
            assert_ne!(keyring.active(), &id(next));
            let again = keyring.announce(id("4"), system_entropy);
            assert_eq!(again, Err(KeyringError::InUse(id(next))));
            for activated in [false, true] {
                assert_eq!(activated && keyring.activate(), activated);
                let now = read(&keyring);
                for (publisher, service) in [(&now, &before), (&before, &now), (&now, &now)] {
                    let plain = seal(publisher).open(place, service).expect("opened");
                    assert_eq!(plain.expose(), "\"hunter2\"");
                }
                before = now;
            }
            assert_eq!(keyring.active(), &id(next));
        }
        assert!(first.open(place, &keyring).is_ok(), "old keys stay");
        assert!(!keyring.activate(), "none is announced");
        keyring.remove(&id("1")).expect("removed");
        let unknown = first.open(place, &read(&keyring));
        assert_eq!(unknown, Err(OpenError::UnknownKey(id("1"))));
    }

    #[test]
    fn a_keyring_has_no_two_keys_of_an_id_and_keeps_those_in_use() {
        let mut keyring = Keyring::new(id("1"), system_entropy);
        let twice = keyring.announce(id("1"), system_entropy);
        assert_eq!(twice, Err(KeyringError::Twice(id("1"))));
        keyring.announce(id("2"), system_entropy).expect("added");
        for used in ["1", "2"] {
            let removed = keyring.remove(&id(used));
            assert_eq!(removed, Err(KeyringError::InUse(id(used))));
        }
        let missing = keyring.remove(&id("3"));
        assert_eq!(missing, Err(KeyringError::Missing(id("3"))));
        for number in 3..=MAX_KEYS {
            keyring.activate();
            let added = keyring.announce(id(&number.to_string()), system_entropy);
            added.expect("added");
        }
        keyring.activate();
        let one_more = keyring.announce(id("65"), system_entropy);
        assert_eq!(one_more, Err(KeyringError::Number));
        let text = keyring.to_text();
        assert!(text.len() <= keyring.room(), "it did not grow");
        read(&keyring);
    }
}
