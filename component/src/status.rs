//! Refusals as a sidecar understands them: a code, a text that stands alone, and the field at fault.
//!
//! This is the only place that makes a gRPC status of an error of the client. No text shows a secret: the errors of
//! the client name a publisher by host and port.

use client::ClientError;
use contract::{CollectionName, ProblemKind};
use prost::Message;
use prost_types::Any;
use replica::{Config, Follow};
use tonic::{Code, Status};

/// Most parts of one bulk.
const MAX_BULK: usize = 1_000;
/// The field by which a sidecar recognises an error of a version.
pub(crate) const ETAG: &str = "etag";

/// `google.rpc.Status`: what the header `grpc-status-details-bin` has.
#[derive(Clone, PartialEq, Message)]
struct DetailedStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

/// A status that names the field at fault.
pub(crate) fn of_field(code: Code, field: &str, text: impl Into<String>) -> Status {
    let text = text.into();
    let violations = BadRequest {
        field_violations: vec![FieldViolation {
            field: field.to_owned(),
            description: text.clone(),
        }],
    };
    let details = DetailedStatus {
        code: code.into(),
        message: text.clone(),
        details: vec![Any {
            type_url: "type.googleapis.com/google.rpc.BadRequest".to_owned(),
            value: violations.encode_to_vec(),
        }],
    };
    Status::with_details(code, text, details.encode_to_vec().into())
}

/// A text of a caller, short enough to be repeated.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// What the caller sent is wrong.
pub(crate) fn invalid(field: &str, text: impl Into<String>) -> Status {
    of_field(Code::InvalidArgument, field, text)
}

/// The refusal of a bulk that is too long; `field` has its parts.
///
/// # Errors
/// When there are more than [`MAX_BULK`].
pub(crate) fn check_bulk(field: &str, number: usize) -> Result<(), Status> {
    match number <= MAX_BULK {
        true => Ok(()),
        false => Err(invalid(
            field,
            format!("a bulk has at most {MAX_BULK} {field}"),
        )),
    }
}

/// The refusal of a collection that the replica does not follow. One that publishers may serve later is
/// awaited. `what` says it in the words of the call.
///
/// # Errors
/// When the settings name other collections.
pub(crate) fn require_followed(
    config: &Config,
    collection: &CollectionName,
    field: &str,
    what: impl FnOnce() -> String,
) -> Result<(), Status> {
    if config.follow == Follow::Served || config.collections.contains(collection) {
        return Ok(());
    }
    let text = format!(
        "{}: add it to AURA_CONFIGURATION_COLLECTIONS of the component, and restart it and the sidecar",
        what()
    );
    Err(of_field(Code::NotFound, field, text))
}

/// What a publisher, or the way to it, answered to a write.
pub(crate) fn of_client(error: &ClientError) -> Status {
    let text = error.to_string();
    let code = match error.status() {
        Some(400 | 413 | 415 | 422) => Code::InvalidArgument,
        Some(401) => Code::Unauthenticated,
        Some(403) => Code::PermissionDenied,
        Some(404) => Code::NotFound,
        Some(409 | 412) => Code::FailedPrecondition,
        Some(429) => Code::ResourceExhausted,
        Some(status) if status >= 500 => Code::Unavailable,
        Some(_other) => Code::Unknown,
        None => Code::Unavailable,
    };
    if error.kind() == Some(ProblemKind::ConditionFailed) {
        return of_field(code, ETAG, text);
    }
    let problem = error.problem();
    let field = problem.and_then(|problem| problem.pointer.as_deref().or(problem.field.as_deref()));
    match field {
        Some(field) => of_field(code, field, text),
        None => Status::new(code, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_the_field_as_a_sidecar_reads_it() {
        let status = of_field(Code::FailedPrecondition, ETAG, "it has another version");
        let details = DetailedStatus::decode(status.details()).expect("details");
        assert_eq!(details.code, 9);
        let [detail] = &details.details[..] else {
            panic!("one detail: {details:?}");
        };
        assert!(detail.type_url.ends_with("/google.rpc.BadRequest"));
        let violations = BadRequest::decode(&*detail.value).expect("violations");
        assert_eq!(violations.field_violations[0].field, "etag");
    }
}
