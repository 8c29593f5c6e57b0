//! Operations that read: collections, documents, snapshots, the feed and the schemas.

use contract::{
    Change, Document, DocumentId, ProblemKind, applied::Applied, references::Referrers,
};
use serde_json::json;
use service::http::{
    JSON,
    openapi::{
        ApiAnswer, ApiOperation, ApiSchema, ETAG, VARY,
        operations::{self, cached, from_revision_on, of_collection, of_document, of_selection},
    },
};

use crate::api::{
    openapi::{past, reading, writes},
    schemas::SchemaList,
};

pub(crate) fn heads() -> ApiOperation {
    reading(of_selection(ApiOperation::new(
        "getHeads",
        "Where the collections stand",
    )))
    .answer(operations::heads())
}

pub(crate) fn head() -> ApiOperation {
    let operation = of_collection(ApiOperation::new("getHead", "Where a collection stands"));
    cached(from_revision_on(reading(operation)), &[ETAG]).answer(operations::head().with(&[ETAG]))
}

pub(crate) fn applied() -> ApiOperation {
    let summary = "How many replicas have applied a revision";
    let operation = of_collection(ApiOperation::new("getApplied", summary))
        .describe("It answers as soon as they are as many as `wait` says (`all` without it), or at the end of \
             `timeout`.")
        .query(
            "revision",
            "The newest one when it is omitted",
            json!({"type": "integer", "minimum": 0}).into(),
        )
        .query(
            "id",
            "The document of the write: only a refusal of its value counts. Without it, the refusal of any \
             value up to the revision",
            ApiSchema::of::<DocumentId>(),
        );
    reading(writes::waiting(operation))
        .problems(&[ProblemKind::StreamsFull, ProblemKind::NoRevision])
        .answer(ApiAnswer::json::<Applied>(
            200,
            "`reached` says whether they are enough",
        ))
}

pub(crate) fn documents() -> ApiOperation {
    let operation = of_collection(ApiOperation::new(
        "listDocuments",
        "All documents of a collection",
    ))
    .problems(&[ProblemKind::LoadsUnderWay]);
    let answer = operations::documents().may_have(past::STATE);
    let operation = from_revision_on(past::also_past(operation));
    cached(reading(operation), &[ETAG, VARY]).answer(answer)
}

pub(crate) fn document() -> ApiOperation {
    let operation = of_document(ApiOperation::new("getDocument", "A document"));
    let operation = operation
        .query(
            "reveal",
            "Whether secrets are in plain text; needs the right read-secrets",
            json!({"type": "boolean", "default": false}).into(),
        )
        .problems(&[ProblemKind::NoSecretKey]);
    let answer = ApiAnswer::json::<Document>(200, "The document")
        .may_have(&[ETAG])
        .may_have(past::STATE);
    let operation = from_revision_on(past::also_past(operation));
    cached(reading(operation), &[ETAG]).answer(answer)
}

pub(crate) fn referrers() -> ApiOperation {
    let operation = of_collection(ApiOperation::new(
        "getReferrers",
        "The documents that refer to a document",
    ))
    .path("id", "Id of the document", ApiSchema::of::<DocumentId>())
    .describe("By `x-ref` of the schemas in force. The document need not exist.")
    .problems(&[ProblemKind::LoadsUnderWay, ProblemKind::Unreadable]);
    reading(operation).answer(ApiAnswer::json::<Referrers>(
        200,
        "By collection and id; at most 1000 places",
    ))
}

pub(crate) fn snapshot() -> ApiOperation {
    let operation = ApiOperation::new(
        "getSnapshot",
        "All documents of some collections from one snapshot",
    );
    reading(of_selection(operation).problems(&[ProblemKind::LoadsUnderWay]))
        .describe(operations::SNAPSHOT)
        .answer(operations::snapshot())
}

pub(crate) fn feed() -> ApiOperation {
    let operation = ApiOperation::new("getChanges", "Changes of several collections");
    operations::feed::<Change>(reading(operation), &[])
}

pub(crate) fn feed_of_collection() -> ApiOperation {
    let operation = ApiOperation::new("getChangesOfCollection", "Changes of a collection");
    operations::feed_of_collection::<Change>(reading(operation), &[])
}

pub(crate) fn schemas() -> ApiOperation {
    ApiOperation::new("listSchemas", "The collections that have a schema").answer(
        ApiAnswer::json::<SchemaList<'static>>(200, "By name of the collection"),
    )
}

pub(crate) fn schema() -> ApiOperation {
    let operation = of_collection(ApiOperation::new(
        "getSchema",
        "The schema in force of a collection",
    ))
    .query(
        "urn",
        "This version or none: `dataschema` of an event",
        json!({"type": "string"}).into(),
    )
    .problems(&[ProblemKind::NoSchema]);
    let answer = ApiAnswer::empty(200, "The schema, byte for byte as it was given").content(
        "application/schema+json",
        json!({"type": "object", "additionalProperties": true}).into(),
    );
    cached(operation, &[ETAG]).answer(answer.with(&[ETAG]))
}

pub(crate) fn sample() -> ApiOperation {
    let operation = of_collection(ApiOperation::new("getSample", "A document as an example"))
        .problems(&[ProblemKind::NoSchema]);
    let answer =
        ApiAnswer::empty(200, "The sample beside the schema").content(JSON, json!({}).into());
    cached(operation, &[ETAG]).answer(answer.with(&[ETAG]))
}
