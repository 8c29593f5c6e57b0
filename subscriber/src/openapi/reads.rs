//! Operations that read. It describes them, and does nothing.

use contract::{
    Document, DocumentId, Epoch, EventData, FeedPage, Head, Heads,
    feed::{EVENT_STREAM, PAGE},
    listing::NDJSON,
    schema::{DocumentList, ListStart},
    snapshot::{SnapshotEnd, SnapshotItem, SnapshotStart},
};
use serde_json::json;
use service::openapi::{self, ApiAnswer, ApiHeader, ApiOperation, ApiSchema};

use super::{ETAG, STANDING, VARY, cached, of_collection, operation};

/// Whether a snapshot is of one moment.
const SETTLED: ApiHeader = ApiHeader {
    name: "Confcast-Settled",
    description: "`false` while changes beyond a gap are in it: no replica may load it then",
    pattern: "^(true|false)$",
};

pub(super) fn add(document: openapi::ApiDocument) -> openapi::ApiDocument {
    let heads = ApiAnswer::json::<Heads>(200, "Heads of one moment").with(&STANDING);
    document
        .operation(
            "get",
            "/v1/collections",
            operation("getHeads", "Where the collections stand").answer(heads),
        )
        .operation("get", "/v1/collections/{collection}", head())
        .operation("get", "/v1/collections/{collection}/documents", documents())
        .operation("get", "/v1/collections/{collection}/documents/{id}", one())
        .operation("get", "/v1/snapshot", snapshot())
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
}

fn head() -> ApiOperation {
    let operation =
        of_collection("getHead", "Where a collection stands").problem(404, &["unversioned"]);
    operation.answer(ApiAnswer::json::<Head>(200, "Its head").with(&STANDING))
}

fn documents() -> ApiOperation {
    let line = ApiSchema::lines([
        ApiSchema::of::<ListStart>(),
        ApiSchema::of::<Document>(),
        ApiSchema::of::<SnapshotEnd>(),
    ]);
    let list = ApiAnswer::json::<DocumentList>(
        200,
        "Head and documents of one moment, in the form that `Accept` names",
    )
    .content(NDJSON, line)
    .with(&[ETAG, VARY])
    .with(&STANDING);
    cached(
        of_collection("listDocuments", "All documents of a collection"),
        &[ETAG, VARY],
    )
    .answer(list)
}

fn one() -> ApiOperation {
    let operation = of_collection("getDocument", "A document")
        .path("id", "Id of the document", ApiSchema::of::<DocumentId>())
        .problem(400, &["bad-request"])
        .problem(404, &["no-data"]);
    cached(operation, &[ETAG]).answer(
        ApiAnswer::json::<Document>(200, "The document")
            .with(&[ETAG])
            .with(&STANDING),
    )
}

fn snapshot() -> ApiOperation {
    let names = json!({"type": "string", "examples": ["ChannelConfiguration,SkillConfiguration"]});
    let line = ApiSchema::lines([
        ApiSchema::of::<SnapshotStart>(),
        ApiSchema::of::<SnapshotItem>(),
        ApiSchema::of::<SnapshotEnd>(),
    ]);
    operation(
        "getSnapshot",
        "All documents of some collections at one moment",
    )
    .describe("Its last line proves it complete: what ends without it was cut off.")
    .query(
        "collections",
        "Names, separated by commas; all when it is left out",
        names.into(),
    )
    .problem(400, &["bad-request"])
    .problem(404, &["unknown-collection", "unversioned"])
    .answer(
        ApiAnswer::empty(200, "One JSON text per line")
            .content(NDJSON, line)
            .with(&[SETTLED])
            .with(&STANDING),
    )
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
        "application/json",
        ApiSchema::of::<FeedPage<EventData>>().knowing::<EventData>(),
    )
    .content(EVENT_STREAM, ApiSchema::from(json!({"type": "string"})))
    .may_have(&[VARY])
    .with(&STANDING);
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
    operation
        .problem(400, &["bad-request"])
        .problem(404, &["unknown-collection", "unversioned"])
        .problem(410, &["feed-gone"])
        .problem(503, &["streams-full"])
        .answer(page)
}
