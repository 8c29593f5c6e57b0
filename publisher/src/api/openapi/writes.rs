//! Operations that write documents. It describes them, and does nothing.

use contract::{
    CanonicalJson, Written,
    set::{ChangeSetRequest, ChangeSetWritten},
};
use serde_json::json;
use service::openapi::{ApiAnswer, ApiDocument, ApiHeader, ApiOperation, ApiSchema};

use crate::api::openapi::{ETAG, of_collection, of_document, operation};

/// Where a new document is.
const LOCATION: ApiHeader = ApiHeader {
    name: "Location",
    description: "Path of the document",
    pattern: "^/v1/collections/[A-Za-z0-9_]+/documents/[A-Za-z0-9._:-]+$",
};

pub(super) fn add(document: ApiDocument) -> ApiDocument {
    let one = "/v1/collections/{collection}/documents/{id}";
    document
        .operation("post", "/v1/collections/{collection}/documents", create())
        .operation("put", one, put())
        .operation("patch", one, patch())
        .operation("delete", one, delete())
        .operation("post", "/v1/changes", change_set())
}

fn create() -> ApiOperation {
    let operation = of_collection("createDocument", "Create a document").problem(409, &["exists"]);
    let operation =
        operation.describe("Its id is the member `id` of the body, or made up when there is none.");
    valued(writing(operation), "application/json")
        .answer(ApiAnswer::json::<Written>(201, "It is there").with(&[LOCATION, ETAG]))
}

fn put() -> ApiOperation {
    let operation = of_document(
        "putDocument",
        "Replace a document; its `metadata` is merged",
    );
    let operation = operation.describe("With `If-None-Match: *` it is created.");
    valued(conditional(writing(operation)), "application/json")
        .answer(ApiAnswer::json::<Written>(200, "It has this value").with(&[ETAG]))
        .answer(ApiAnswer::json::<Written>(201, "It is there").with(&[ETAG]))
}

fn patch() -> ApiOperation {
    let operation = of_document("patchDocument", "Change members of a document (RFC 7396)");
    valued(
        conditional(writing(operation)),
        "application/merge-patch+json",
    )
    .answer(ApiAnswer::json::<Written>(200, "It has this value").with(&[ETAG]))
}

fn delete() -> ApiOperation {
    let operation = conditional(writing(of_document("deleteDocument", "Delete a document")));
    operation.answer(ApiAnswer::json::<Written>(
        200,
        "It is gone since this revision; there is no `crc`",
    ))
}

fn change_set() -> ApiOperation {
    let operation = operation(
        "commitChangeSet",
        "Change several documents together, or none",
    );
    writing(operation)
        .body(
            "application/json",
            true,
            ApiSchema::given::<ChangeSetRequest>(),
        )
        .problem(400, &["bad-set", "bad-body"])
        .problem(404, &["unknown-collection", "no-data"])
        .problem(409, &["exists"])
        .problem(412, &["condition-failed"])
        .problem(413, &["set-too-large"])
        .problem(415, &["media-type"])
        .problem(422, &["schema"])
        .answer(ApiAnswer::json::<ChangeSetWritten>(
            200,
            "What each member came to, in order",
        ))
}

/// What every write may hear, and say of itself.
fn writing(operation: ApiOperation) -> ApiOperation {
    let label = || {
        ApiSchema::from(
            json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"}),
        )
    };
    let unavailable = ["busy", "stopping", "not-committed", "outcome-unknown"];
    operation
        .header(
            "X-Correlation-Id",
            "Ties the change to logs elsewhere",
            label(),
        )
        .header("X-User-Id", "Who asks for it", label())
        .header("X-Organisation-Id", "On whose behalf", label())
        .header(
            "traceparent",
            "W3C trace context; one of another form is left out",
            json!({"type": "string"}).into(),
        )
        .problem(500, &["unreadable"])
        .problem(503, &unavailable)
}

/// It has a document as its body.
fn valued(operation: ApiOperation, media_type: &str) -> ApiOperation {
    let operation = operation.body(media_type, true, ApiSchema::given::<CanonicalJson>());
    operation
        .problem(400, &["bad-body"])
        .problem(415, &["media-type"])
        .problem(422, &["schema"])
}

fn conditional(operation: ApiOperation) -> ApiOperation {
    let tag = json!({"type": "string", "pattern": r#"^"[0-9]{1,19}(-[0-9a-f]{8})?"$"#, "examples": ["\"1\""]});
    let tag = json!({"anyOf": [tag, {"type": "string", "const": "*"}]});
    operation
        .header(
            "If-Match",
            "The revision, or the entity tag, that the document must be at",
            tag.into(),
        )
        .header(
            "If-None-Match",
            "`*`: it must be absent",
            json!({"type": "string", "const": "*"}).into(),
        )
        .problem(412, &["condition-failed"])
}
