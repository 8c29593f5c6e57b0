//! The values of documents, with their secrets opened where the process has the keys.
//!
//! A plain secret is in memory only as long as its file is rendered, and in no message.

use contract::{
    CollectionName, Document,
    secrets::{SEALED_MEMBER, sealed_values},
};
use secrets::Keyring;
use serde_json::Value;

use crate::FilesError;

/// The value of a document.
pub(crate) struct Opened {
    /// Its value; secrets are plain where there are keys.
    pub(crate) value: Value,
    /// Whether a secret of it is plain.
    pub(crate) has_secrets: bool,
}

/// `COLLECTION/ID`, for messages.
pub(crate) fn name_of(collection: &CollectionName, document: &Document) -> String {
    format!("{collection}/{}", document.id())
}

/// Reads a document.
///
/// # Errors
/// When a secret cannot be opened with these keys.
pub(crate) fn open(
    collection: &CollectionName,
    document: &Document,
    keys: Option<&Keyring>,
) -> Result<Opened, FilesError> {
    let failed = |pointer: &str, reason: String| FilesError::Secret {
        document: name_of(collection, document),
        pointer: pointer.to_owned(),
        reason,
    };
    let mut value = serde_json::from_slice(document.config_data())
        .map_err(|_error| failed("", "the document is no JSON".to_owned()))?;
    let mut has_secrets = false;
    if let Some(keys) = keys.filter(|_keys| may_have_secrets(document)) {
        let (id, revision) = (document.id(), document.revision());
        let opened = secrets::document::open(&mut value, collection, id, Some(revision), keys);
        let opened =
            opened.map_err(|unopened| failed(&unopened.pointer, unopened.reason.to_string()))?;
        has_secrets = !opened.is_empty();
    }
    Ok(Opened { value, has_secrets })
}

/// Whether a document has sealed values at all. Most have none, and need no parsing.
pub(crate) fn may_have_secrets(document: &Document) -> bool {
    let text = document.config_data();
    let member = SEALED_MEMBER.as_bytes();
    text.windows(member.len()).any(|window| window == member)
        && serde_json::from_slice::<Value>(text)
            .is_ok_and(|value| !sealed_values(&value).is_empty())
}
