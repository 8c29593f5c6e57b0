//! The documents of a publisher that follows the source document only, which fixes no body for
//! `GetAll` and `GetById`.
//!
//! Two forms are read: the form of this project, where the value is the member `configData`, and
//! the bare record, which is the value itself. A record without that member is bare. If any part of
//! an answer cannot be read, nothing of the answer is used.

use contract::{CanonicalJson, DocumentId};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// Why a body is not a list or a record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    /// Neither form, or cut off.
    #[error("it is not the JSON that was expected: {0}")]
    Json(#[from] serde_json::Error),
    /// A value that has no canonical form: a member twice, a number out of range.
    #[error("a document in it is refused: {0}")]
    Value(#[from] contract::JsonError),
    /// The id is the only name that a document has.
    #[error("a document in it has no id")]
    NoId,
    /// Configuration values are objects.
    #[error("a document in it is not a JSON object")]
    NoObject,
    /// A list of documents with revisions has no proof of completeness; a snapshot has.
    #[error("it has a head, so its publisher has revisions: a snapshot must be loaded instead")]
    Versioned,
}

/// A record in either form: the members that tell the two apart.
#[derive(Deserialize)]
struct Record {
    id: Option<DocumentId>,
    #[serde(rename = "configData")]
    config_data: Option<CanonicalJson>,
}

/// A list in the form of this project. Its records stay unparsed, to be read one by one.
#[derive(Deserialize)]
struct List<'a> {
    head: Option<IgnoredAny>,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// One document: its id, when the record names it, and its value.
///
/// # Errors
/// When the body is not a JSON object with a valid value.
pub(crate) fn record(body: &[u8]) -> Result<(Option<DocumentId>, CanonicalJson), ListError> {
    let Record { id, config_data } = contract::objects::from_slice(body)?;
    // Without that member the record itself is the value, with the id as a part of it.
    let config = config_data.map_or_else(|| CanonicalJson::parse(body), Ok)?;
    if config.is_object() {
        Ok((id, config))
    } else {
        Err(ListError::NoObject)
    }
}

/// All documents: `{"items":[…]}` or a bare array.
///
/// # Errors
/// When any part of the body cannot be read, or the list has a head.
pub(crate) fn records(body: &[u8]) -> Result<Vec<(DocumentId, CanonicalJson)>, ListError> {
    // A bare array is the form of other publishers.
    let items = if body.trim_ascii_start().starts_with(b"[") {
        contract::objects::from_slice(body)?
    } else {
        match contract::objects::from_slice(body)? {
            List { head: Some(_), .. } => return Err(ListError::Versioned),
            List { head: None, items } => items,
        }
    };
    items
        .into_iter()
        .map(|item: &RawValue| {
            let (id, config) = record(item.get().as_bytes())?;
            Ok((id.ok_or(ListError::NoId)?, config))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> Result<Vec<(String, String)>, String> {
        let read = records(body.as_bytes()).map_err(|error| error.to_string())?;
        Ok(read
            .into_iter()
            .map(|(id, config)| (id.to_string(), config.as_str().to_owned()))
            .collect())
    }

    #[test]
    fn both_forms_are_read() {
        let own = check(r#"{"items":[{"id":"a","revision":0,"configData":{"x":1}}]}"#);
        assert_eq!(own, Ok(vec![("a".into(), r#"{"x":1}"#.into())]));
        let bare = check(r#" [{"x":1,"id":"a"}]"#);
        assert_eq!(bare, Ok(vec![("a".into(), r#"{"id":"a","x":1}"#.into())]));
        assert_eq!(check("[]"), Ok(vec![]));
    }

    #[test]
    fn a_list_with_an_unreadable_part_is_refused() {
        for (body, why) in [
            (r#"{"head":{},"items":[]}"#, "a head"),
            (r#"[{"id":"a"},{"x":1}]"#, "no id"),
            (r#"[{"id":"a"}"#, "not the JSON"),
            (r#"{"error":"away"}"#, "not the JSON"),
            (r#"[{"id":"a","configData":5}]"#, "not a JSON object"),
            (r#"[{"id":"a","configData":{"x":1,"x":2}}]"#, "duplicate"),
        ] {
            let error = check(body).expect_err(body);
            assert!(error.contains(why), "{body}: {error}");
        }
    }
}
