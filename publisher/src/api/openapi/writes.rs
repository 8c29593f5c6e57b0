//! Operations that write documents.

use contract::{
    CanonicalJson, ProblemKind, Written, context,
    document::MERGE_PATCH,
    set::{ChangeSetRequest, ChangeSetWritten, WRITE_HEADER},
};
use serde_json::json;
use service::http::{
    JSON,
    openapi::{
        ApiAnswer, ApiHeader, ApiOperation, ApiSchema, ETAG,
        operations::{self, of_collection, of_document},
    },
};

/// What 202 says of a write.
pub(super) const IN_VAIN: &str =
    "It is committed, and fewer replicas than `wait` asks for have applied it in time";
/// Path of a new document.
const LOCATION: ApiHeader = ApiHeader {
    name: "Location",
    description: "Path of the document",
    pattern: "^/v1/collections/[A-Za-z0-9_]+/documents/[A-Za-z0-9._:-]+$",
};

pub(crate) fn create() -> ApiOperation {
    let operation = of_collection(ApiOperation::new("createDocument", "Create a document"))
        .describe("Its id is the member `id` of the body, or generated when there is none.")
        .header(
            "If-None-Match",
            "A document is only created where there is none, with `*` and without",
            json!({"type": "string"}).into(),
        )
        .problems(&[ProblemKind::Exists]);
    with_value(writing(operation), JSON)
        .answer(ApiAnswer::json::<Written>(201, "It is there").with(&[LOCATION, ETAG]))
        .answer(ApiAnswer::json::<Written>(202, IN_VAIN).with(&[LOCATION, ETAG]))
}

pub(crate) fn put() -> ApiOperation {
    let summary = "Replace a document; its `metadata` is merged";
    let operation = of_document(ApiOperation::new("putDocument", summary))
        .describe("With `If-None-Match: *` it is created.")
        .header(
            WRITE_HEADER,
            "`exact` replaces the whole document, `merge` (the default) merges its `metadata`",
            ApiSchema::from(json!({"type": "string", "enum": ["exact", "merge"]})),
        );
    with_value(conditional(writing(operation)), JSON)
        .answer(ApiAnswer::json::<Written>(200, "It has this value").with(&[ETAG]))
        .answer(ApiAnswer::json::<Written>(201, "It is there").with(&[LOCATION, ETAG]))
        .answer(ApiAnswer::json::<Written>(202, IN_VAIN).with(&[ETAG]))
}

pub(crate) fn patch() -> ApiOperation {
    let summary = "Change members of a document (RFC 7396)";
    let operation = of_document(ApiOperation::new("patchDocument", summary));
    with_value(conditional(writing(operation)), MERGE_PATCH)
        .answer(ApiAnswer::json::<Written>(200, "It has this value").with(&[ETAG]))
        .answer(ApiAnswer::json::<Written>(202, IN_VAIN).with(&[ETAG]))
}

pub(crate) fn delete() -> ApiOperation {
    let operation = of_document(ApiOperation::new("deleteDocument", "Delete a document"));
    conditional(writing(operation))
        .answer(ApiAnswer::json::<Written>(
            200,
            "It is gone since this revision; there is no `crc`",
        ))
        .answer(ApiAnswer::json::<Written>(202, IN_VAIN))
}

pub(crate) fn change_set() -> ApiOperation {
    let summary = "Change several documents together, or none";
    writing(ApiOperation::new("commitChangeSet", summary))
        .body(JSON, true, ApiSchema::received::<ChangeSetRequest>())
        .problems(&[
            ProblemKind::BadSet,
            ProblemKind::BadBody,
            ProblemKind::UnknownCollection,
            ProblemKind::NoData,
            ProblemKind::Exists,
            ProblemKind::ConditionFailed,
            ProblemKind::SetTooLarge,
            ProblemKind::MediaType,
            ProblemKind::Schema,
        ])
        .answer(ApiAnswer::json::<ChangeSetWritten>(
            200,
            "The new revision of each document, in order",
        ))
        .answer(ApiAnswer::json::<ChangeSetWritten>(202, IN_VAIN))
}

/// The same operation, with the headers and problems of every write.
pub(super) fn writing(operation: ApiOperation) -> ApiOperation {
    let operation = waiting(authored(operation));
    operation.problems(&[
        ProblemKind::StreamsFull,
        ProblemKind::DanglingReference,
        ProblemKind::NoSecretKey,
        ProblemKind::Unreadable,
        ProblemKind::Busy,
        ProblemKind::Stopping,
        ProblemKind::NotCommitted,
        ProblemKind::OutcomeUnknown,
    ])
}

/// The same operation, with the parameters of a wait for replicas.
pub(super) fn waiting(operation: ApiOperation) -> ApiOperation {
    operations::timeout(operation.query(
        "wait",
        "Answers when so many live replicas have applied the write: `all`, a number, or a part like \
         `90%`; `all` where only `timeout` is given",
        json!({"type": "string", "pattern": "^(all|[1-9][0-9]{0,8}|[1-9][0-9]?%|100%)$"}).into(),
    ))
}

/// The same operation, with the headers that say by which user and why.
pub(super) fn authored(operation: ApiOperation) -> ApiOperation {
    let label = || {
        ApiSchema::from(
            json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"}),
        )
    };
    let trace = json!({"type": "string"});
    operation
        .header(
            context::CORRELATION_ID,
            "Ties the change to logs elsewhere",
            label(),
        )
        .header(context::USER_ID, "The user who makes the change", label())
        .header(
            context::ORGANISATION_ID,
            "The organisation of the user",
            label(),
        )
        .header(
            context::CHANGE_REASON,
            "Why the change is made",
            json!({"type": "string", "minLength": 1, "maxLength": 512}).into(),
        )
        .header(
            "traceparent",
            "W3C trace context; an invalid one is ignored",
            trace.into(),
        )
}

/// The same operation, with a document as its body.
fn with_value(operation: ApiOperation, media_type: &str) -> ApiOperation {
    operation
        .body(media_type, true, ApiSchema::received::<CanonicalJson>())
        .problems(&[
            ProblemKind::BadBody,
            ProblemKind::MediaType,
            ProblemKind::Schema,
        ])
}

/// The same operation, with the conditions of a write.
fn conditional(operation: ApiOperation) -> ApiOperation {
    // Plain texts: generators leave out an operation whose header is a choice or a constant.
    let tag = json!({"type": "string", "examples": ["\"1\""]});
    let any = json!({"type": "string", "examples": ["*"]});
    operation
        .header(
            "If-Match",
            "The revision, or the entity tag, that the document must be at",
            tag.into(),
        )
        .header("If-None-Match", "`*`: it must be absent", any.into())
        .problems(&[ProblemKind::ConditionFailed])
}
