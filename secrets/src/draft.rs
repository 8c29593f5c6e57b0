//! A document whose secrets are not sealed yet: its text in parts, and the plain values between them.
//!
//! A value is bound to the revision that brings it, which is known only in the transaction. What takes
//! time in proportion to the document is done before: the transaction seals the values and joins the
//! parts.

use std::fmt;

use contract::{
    CanonicalJson, CollectionName, DocumentId, JsonError, Revision,
    secrets::{SEALED_MEMBER, sealed_text},
};
use memchr::memmem;
use serde_json::Value;

use crate::{
    Entropy,
    keys::Keyring,
    sealed::{Place, Plain, Sealed},
};

/// Random bytes of the marks that stand for secrets while a document is encoded.
const MARK_BYTES: usize = 16;

/// A document with its secrets in plain text, apart from the rest.
#[derive(Clone)]
pub struct Draft {
    /// The canonical JSON around the secrets: one part more than there are secrets.
    parts: Vec<String>,
    /// In the order of the parts.
    secrets: Vec<(String, Plain)>,
}

/// Without the text, and without the secrets.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Draft({} secrets)", self.secrets.len())
    }
}

impl Draft {
    /// A draft of a document whose secrets are at these pointers.
    ///
    /// # Errors
    /// When the document has no canonical form.
    pub fn new(
        mut document: Value,
        pointers: &[String],
        entropy: Entropy,
    ) -> Result<Self, JsonError> {
        let mut mark = [0; MARK_BYTES];
        entropy(&mut mark);
        // No part of the document has this text, because it is random.
        let mark: String = mark.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut plain = Vec::with_capacity(pointers.len());
        for pointer in pointers {
            if let Some(place) = document.pointer_mut(pointer) {
                let value = std::mem::replace(place, format!("{mark}-{}", plain.len()).into());
                plain.push(Some((pointer.clone(), Plain::of(&value))));
            }
        }
        let text = CanonicalJson::of(&document)?;
        let text = text.as_str();
        let mut parts = Vec::with_capacity(plain.len() + 1);
        let mut secrets = Vec::with_capacity(plain.len());
        let mut begin = 0;
        for at in memmem::find_iter(text.as_bytes(), mark.as_bytes()) {
            // `"<mark>-<number>"`, and no number has a quote.
            let number_at = at + mark.len() + 1;
            let digits = text
                .get(number_at..)
                .and_then(|rest| rest.split('"').next());
            let number = digits.and_then(|digits| digits.parse::<usize>().ok());
            let secret = number.and_then(|number| plain.get_mut(number)?.take());
            let (Some(digits), Some(secret)) = (digits, secret) else {
                continue;
            };
            parts.push(text[begin..at - 1].to_owned());
            secrets.push(secret);
            begin = number_at + digits.len() + 1;
        }
        parts.push(text[begin..].to_owned());
        Ok(Self { parts, secrets })
    }

    /// How many secrets it has.
    pub fn secrets(&self) -> usize {
        self.secrets.len()
    }

    /// Bytes of the sealed document, at most.
    pub fn max_len(&self) -> usize {
        let parts: usize = self.parts.iter().map(String::len).sum();
        let form = SEALED_MEMBER.len() + r#"{"":""}"#.len();
        let secrets = self.secrets.iter();
        let secrets = secrets.map(|(_pointer, plain)| form + Sealed::max_len(plain.expose().len()));
        parts + secrets.sum::<usize>()
    }

    /// The document with its secrets sealed. A secret that `stored`, the document before, has at the
    /// same place keeps its text there, so that only what changed differs.
    ///
    /// # Errors
    /// When a value cannot be sealed, or the result is not canonical; no document does that.
    pub fn seal(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        revision: Revision,
        stored: Option<&Value>,
        keys: &Keyring,
        entropy: Entropy,
    ) -> Result<CanonicalJson, JsonError> {
        let mut text = String::with_capacity(self.max_len());
        let mut parts = self.parts.iter();
        text.extend(parts.next().map(String::as_str));
        for ((pointer, plain), part) in self.secrets.iter().zip(parts) {
            let place = Place {
                collection,
                id,
                pointer,
            };
            let kept = stored
                .and_then(|stored| sealed_text(stored.pointer(pointer)?))
                .filter(|text| {
                    let opened = text.parse::<Sealed>().and_then(|it| it.open(place, keys));
                    opened.is_ok_and(|opened| opened == *plain)
                });
            let sealed = match kept {
                Some(kept) => kept.to_owned(),
                None => Sealed::seal(plain, place, revision, keys, entropy)
                    .ok_or_else(|| JsonError {
                        pointer: pointer.clone(),
                        reason: "the secret is too large".to_owned(),
                    })?
                    .to_string(),
            };
            // A sealed text has no character that JSON escapes.
            text.push_str(&format!("{{\"{SEALED_MEMBER}\":\"{sealed}\"}}"));
            text.push_str(part);
        }
        CanonicalJson::from_canonical(text)
    }

    /// Whether a text is this document, sealed at any time.
    pub fn is(&self, text: &str) -> bool {
        let mut parts = self.parts.iter();
        let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
            return false;
        };
        for part in parts {
            let sealed = rest.strip_prefix("{\"").and_then(|rest| {
                let rest = rest.strip_prefix(SEALED_MEMBER)?.strip_prefix("\":\"")?;
                rest.split_once("\"}")?.1.strip_prefix(part.as_str())
            });
            let Some(after) = sealed else {
                return false;
            };
            rest = after;
        }
        rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{document, keys::tests::keyring, system_entropy};

    #[test]
    fn a_draft_is_sealed_in_canonical_form_and_keeps_what_did_not_change() {
        let collection = "Doors".parse().expect("a name");
        let id = "d1".parse().expect("an id");
        let keys = keyring(&["a"]);
        let plain =
            json!({"z": "p1!", "list": [{"token": {"k": "p2!"}, "n": 1}], "b": "x\u{0}\"y"});
        let pointers = ["/list/0/token".to_owned(), "/z".to_owned()];
        let draft = Draft::new(plain.clone(), &pointers, system_entropy).expect("a draft");
        assert_eq!(draft.secrets(), 2);
        assert_eq!(format!("{draft:?}"), "Draft(2 secrets)");
        let seal = |draft: &Draft, revision, stored: Option<&Value>| {
            let sealed = draft.seal(&collection, &id, revision, stored, &keys, system_entropy);
            sealed.expect("sealed")
        };
        let first = seal(&draft, 5, None);
        let stored = first.to_value().expect("JSON");
        assert_eq!(CanonicalJson::of(&stored).expect("canonical"), first);
        assert!(first.as_str().len() <= draft.max_len());
        assert!(!first.as_str().contains("p1!") && !first.as_str().contains("p2!"));
        assert!(draft.is(first.as_str()));
        let mut opened = stored.clone();
        document::open(&mut opened, &collection, &id, Some(5), &keys).expect("opened");
        assert_eq!(opened, plain);

        assert_eq!(seal(&draft, 9, Some(&stored)), first, "nothing changed");
        let mut other = plain;
        other["z"] = json!("p3");
        let changed = Draft::new(other, &pointers, system_entropy).expect("a draft");
        let second = seal(&changed, 9, Some(&stored)).to_value().expect("JSON");
        assert_eq!(second["list"], stored["list"]);
        assert_ne!(second["z"], stored["z"]);
        assert!(draft.is(seal(&changed, 9, None).as_str()));
        let longer =
            json!({"z": "p1!", "list": [{"token": {"k": "p2!"}, "n": 2}], "b": "x\u{0}\"y"});
        let longer = Draft::new(longer, &pointers, system_entropy).expect("a draft");
        assert!(!longer.is(first.as_str()));
    }
}
