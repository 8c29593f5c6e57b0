//! Operations that read: collections, documents, snapshots, the feed and the schemas. It describes
//! them, and does nothing.

use contract::{
    Change, Document, Epoch, Feed, Head, Heads,
    feed::{EVENT_STREAM, PAGE},
    listing::NDJSON,
    schema::{DocumentList, ListStart},
    snapshot,
};
use serde_json::json;
use service::openapi::{self, Answer, Operation, Schema};

use super::{ETAG, VARY, cached, of_collection, of_document, operation, reading, selecting};
use crate::routes::schemas;

const JSON: &str = "application/json";

pub(super) fn add(document: openapi::Document) -> openapi::Document {
    let heads = selecting(operation("getHeads", "Where the collections stand"));
    let head = of_collection("getHead", "Where a collection stands");
    let snapshot = selecting(operation(
        "getSnapshot",
        "All documents of some collections at one moment",
    ))
    .describe("Its last line proves it complete: what ends without it was cut off.")
    .problem(503, &["loads-under-way"]);
    let line = Schema::lines([
        Schema::of::<snapshot::Start>(),
        Schema::of::<snapshot::Item>(),
        Schema::of::<snapshot::End>(),
    ]);
    let lines = Answer::empty(200, "One JSON text per line").content(NDJSON, line);
    document
        .operation(
            "get",
            "/v1/collections",
            reading(heads).answer(Answer::json::<Heads>(200, "Heads of one moment")),
        )
        .operation(
            "get",
            "/v1/collections/{collection}",
            reading(head).answer(Answer::json::<Head>(200, "Its head").with(&[ETAG])),
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

fn documents() -> Operation {
    let list = Answer::json::<DocumentList>(
        200,
        "Head and documents of one moment, in the form that `Accept` names",
    )
    .content(
        NDJSON,
        Schema::lines([
            Schema::of::<ListStart>(),
            Schema::of::<Document>(),
            Schema::of::<snapshot::End>(),
        ]),
    )
    .with(&[ETAG, VARY]);
    let operation = of_collection("listDocuments", "All documents of a collection");
    cached(reading(operation), &[ETAG, VARY]).answer(list)
}

fn one() -> Operation {
    let operation = cached(reading(of_document("getDocument", "A document")), &[ETAG]);
    operation.answer(Answer::json::<Document>(200, "The document").with(&[ETAG]))
}

fn feed(operation: Operation, of_one: bool) -> Operation {
    let since = if of_one {
        json!({"type": "string", "pattern": "^[0-9]{1,19}$", "examples": ["0"]})
    } else {
        json!({"type": "string", "examples": ["ChannelConfiguration:0,SkillConfiguration:0"]})
    };
    let page = Answer::empty(
        200,
        "A page, or with `Accept: text/event-stream` all that is to come",
    )
    .content(JSON, Schema::of::<Feed<Change>>().knowing::<Change>())
    .content(EVENT_STREAM, Schema::from(json!({"type": "string"})))
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
        .query("epoch", "The history that `since` counts in", Schema::of::<Epoch>())
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

fn list_of_schemas() -> Operation {
    let operation = operation("listSchemas", "The collections that have a schema");
    operation.answer(Answer::json::<schemas::List<'static>>(
        200,
        "By name of the collection",
    ))
}

fn schema() -> Operation {
    let urn = json!({"type": "string"});
    let operation = of_collection("getSchema", "The schema in force of a collection");
    let operation = operation.query(
        "urn",
        "This version or none: `dataschema` of an event",
        urn.into(),
    );
    let answer = Answer::empty(200, "The schema, byte for byte as it was given");
    let answer = answer.content("application/schema+json", json!({"type": "object"}).into());
    cached(operation.problem(404, &["no-schema"]), &[ETAG]).answer(answer.with(&[ETAG]))
}

fn sample() -> Operation {
    let operation =
        of_collection("getSample", "A document as an example").problem(404, &["no-schema"]);
    let sample = Answer::empty(200, "The sample beside the schema").content(JSON, json!({}).into());
    cached(operation, &[ETAG]).answer(sample.with(&[ETAG]))
}
