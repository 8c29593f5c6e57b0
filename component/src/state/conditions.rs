//! What a request says of a value: the JSON, the version that it must have, and what a refusal means.
//!
//! Nothing here reads or writes a document.

use client::ClientError;
use contract::{CanonicalJson, Document, Expected, ProblemKind};
use tonic::{Code, Status};

use crate::{
    proto::{Etag, SetRequest, StateOptions},
    status::{ETAG, invalid, of_client, of_field},
};

/// [`StateOptions::concurrency`]: the first writer wins.
const FIRST_WRITE: i32 = 1;
/// [`StateOptions::concurrency`]: the last writer wins.
const LAST_WRITE: i32 = 2;

/// The version of a document: its entity tag without quotes.
pub(super) fn version(document: &Document) -> String {
    format!("{}-{}", document.revision(), document.crc())
}

/// The value of a write.
pub(super) fn value(request: &SetRequest) -> Result<CanonicalJson, Status> {
    let has_ttl = |name: &String| name.eq_ignore_ascii_case("ttlInSeconds");
    if request.metadata.keys().any(has_ttl) {
        let text = format!(
            "key {}: documents do not expire: remove ttlInSeconds",
            request.key
        );
        return Err(invalid("metadata.ttlInSeconds", text));
    }
    CanonicalJson::parse(&request.value).map_err(|error| {
        let text = format!(
            "key {}: the value is no JSON that can be stored, at {:?}: {}. A document is JSON",
            request.key, error.pointer, error.reason
        );
        invalid("value", text)
    })
}

/// The condition of a write. Without a version the first writer creates the document.
pub(super) fn expected(
    etag: Option<&Etag>,
    options: Option<StateOptions>,
) -> Result<Expected, Status> {
    let concurrency = options.map_or(0, |options| options.concurrency);
    let etag = etag
        .map(|etag| etag.value.as_str())
        .filter(|etag| !etag.is_empty());
    match (concurrency, etag) {
        (LAST_WRITE, _) => Ok(Expected::Any),
        (FIRST_WRITE, None) => Ok(Expected::Absent),
        (_, None) => Ok(Expected::Any),
        (_, Some(etag)) => match etag.trim_matches('"').parse() {
            Ok(version) => Ok(Expected::Exactly(version)),
            Err(error) => Err(invalid(ETAG, format!("etag: {error}"))),
        },
    }
}

/// The refusal of a write. A document that is not there has not the version that was expected.
pub(super) fn refused(error: &ClientError, expected: &Expected) -> Status {
    if !expected.is_any() && error.kind() == Some(ProblemKind::NoData) {
        return of_field(Code::FailedPrecondition, ETAG, error.to_string());
    }
    of_client(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_concurrency_are_conditions() {
        let with = |etag: Option<&str>, concurrency| {
            let etag = etag.map(|value| Etag {
                value: value.to_owned(),
            });
            expected(etag.as_ref(), Some(StateOptions { concurrency }))
        };
        let version = |text: &str| Expected::Exactly(text.parse().expect("a version"));
        for (etag, concurrency, condition) in [
            (None, 0, Expected::Any),
            (None, FIRST_WRITE, Expected::Absent),
            (None, LAST_WRITE, Expected::Any),
            (Some(""), 0, Expected::Any),
            (Some("7"), 0, version("7")),
            (Some("7-6a4d3f2e"), FIRST_WRITE, version("7-6a4d3f2e")),
            (Some("\"7-6a4d3f2e\""), FIRST_WRITE, version("7-6a4d3f2e")),
            (Some("7"), LAST_WRITE, Expected::Any),
        ] {
            assert_eq!(
                with(etag, concurrency).expect("right"),
                condition,
                "{etag:?}"
            );
        }
        let refusal = with(Some("x"), 0).expect_err("no version");
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert!(!refusal.details().is_empty());
    }
}
