//! Operations that read: collections, documents, snapshots, the feed and the schemas. It describes
//! them, and does nothing.

use contract::{
    Change, Document, Epoch, FeedPage, Head, Heads,
    feed::{EVENT_STREAM, PAGE},
    listing::NDJSON,
    schema::{DocumentList, ListStart},
    snapshot,
};
use serde_json::json;
use service::openapi::{self, ApiAnswer, ApiOperation, ApiSchema};

use crate::api::{
    openapi::{ETAG, VARY, cached, of_collection, of_document, operation, reading, selecting},
    schemas,
};

const JSON: &str = "application/json";

pub(super) fn add(document: openapi::ApiDocument) -> openapi::ApiDocument {
    let heads = selecting(operation("getHeads", "Where the collections stand"));
    let head = of_collection("getHead", "Where a collection stands");
    let snapshot = selecting(operation(
        "getSnapshot",
        "All documents of some collections at one moment",
    ))
    .describe("Its last line proves it complete: what ends without it was cut off.")
    .problem(503, &["loads-under-way"]);
    let line = ApiSchema::lines([
        ApiSchema::of::<snapshot::SnapshotStart>(),
        ApiSchema::of::<snapshot::SnapshotItem>(),
        ApiSchema::of::<snapshot::SnapshotEnd>(),
    ]);
    let lines = ApiAnswer::empty(200, "One JSON text per line").content(NDJSON, line);
    document
        .operation(
            "get",
            "/v1/collections",
            reading(heads).answer(ApiAnswer::json::<Heads>(200, "Heads of one moment")),
        )
        .operation(
            "get",
            "/v1/collections/{collection}",
            reading(head).answer(ApiAnswer::json::<Head>(200, "Its head").with(&[ETAG])),
        )
        .operation("get", "/v1/collections/{collection}/documents", documents())
        .operation("get", "/v1/collections/{collection}/documents/{id}", one())
        .operation("get", "/v1/snapshot", reading(snapshot).answer(lines))
        .operation(
            "get",
            "/v1/changes",
            feed(
                operation("getChanges", "Changes of several collections"),
                false,
            ),
        )
        .operation(
            "get",
            "/v1/collections/{collection}/changes",
            feed(
                of_collection("getChangesOfCollection", "Changes of a collection"),
                true,
            ),
        )
        .operation("get", "/v1/schemas", list_of_schemas())
        .operation("get", "/v1/schemas/{collection}", schema())
        .operation("get", "/v1/schemas/{collection}/sample", sample())
}

fn documents() -> ApiOperation {
    let list = ApiAnswer::json::<DocumentList>(
        200,
        "Head and documents of one moment, in the form that `Accept` names",
    )
    .content(
        NDJSON,
        ApiSchema::lines([
            ApiSchema::of::<ListStart>(),
            ApiSchema::of::<Document>(),
            ApiSchema::of::<snapshot::SnapshotEnd>(),
        ]),
    )
    .with(&[ETAG, VARY]);
    let operation = of_collection("listDocuments", "All documents of a collection");
    cached(reading(operation), &[ETAG, VARY]).answer(list)
}

fn one() -> ApiOperation {
    let operation = cached(reading(of_document("getDocument", "A document")), &[ETAG]);
    operation.answer(ApiAnswer::json::<Document>(200, "The document").with(&[ETAG]))
}

fn feed(operation: ApiOperation, of_one: bool) -> ApiOperation {
    let since = if of_one {
        json!({"type": "string", "pattern": "^[0-9]{1,19}$", "examples": ["0"]})
    } else {
        json!({"type": "string", "examples": ["ChannelConfiguration:0,SkillConfiguration:0"]})
    };
    let page = ApiAnswer::empty(
        200,
        "A page, or with `Accept: text/event-stream` all that is to come",
    )
    .content(
        JSON,
        ApiSchema::of::<FeedPage<Change>>().knowing::<Change>(),
    )
    .content(EVENT_STREAM, ApiSchema::from(json!({"type": "string"})))
    .may_have(&[VARY]);
    let limit = json!({"type": "integer", "minimum": 0, "maximum": PAGE});
    let operation = operation
        .describe(
            "As a stream of server-sent events it has no end: `change` with an item, `resync` where it cannot go on.",
        )
        .query(
            "since",
            "What the caller has; left out, a stream begins with the present, and a page cannot be",
            since.into(),
        )
        .query("epoch", "The history that `since` counts in", ApiSchema::of::<Epoch>())
        .query("limit", "Most items of a page; more than there may be is taken for that many", limit.into())
        .header(
            "Last-Event-ID",
            "`id` of the last event of a stream that was cut off",
            json!({"type": "string"}).into(),
        );
    let operation = operation
        .problem(404, &["unknown-collection"])
        .problem(410, &["feed-gone"]);
    reading(operation)
        .problem(503, &["streams-full"])
        .answer(page)
}

fn list_of_schemas() -> ApiOperation {
    let operation = operation("listSchemas", "The collections that have a schema");
    operation.answer(ApiAnswer::json::<schemas::List<'static>>(
        200,
        "By name of the collection",
    ))
}

fn schema() -> ApiOperation {
    let urn = json!({"type": "string"});
    let operation = of_collection("getSchema", "The schema in force of a collection");
    let operation = operation.query(
        "urn",
        "This version or none: `dataschema` of an event",
        urn.into(),
    );
    let answer = ApiAnswer::empty(200, "The schema, byte for byte as it was given");
    let answer = answer.content("application/schema+json", json!({"type": "object"}).into());
    cached(operation.problem(404, &["no-schema"]), &[ETAG]).answer(answer.with(&[ETAG]))
}

fn sample() -> ApiOperation {
    let operation =
        of_collection("getSample", "A document as an example").problem(404, &["no-schema"]);
    let sample =
        ApiAnswer::empty(200, "The sample beside the schema").content(JSON, json!({}).into());
    cached(operation, &[ETAG]).answer(sample.with(&[ETAG]))
}
