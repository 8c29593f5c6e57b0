//! Operations that both services offer, and parts of operations.
//!
//! A service begins with an operation of its own, which has the problems that every request may
//! get, and completes it with these functions.

use contract::{
    CollectionName, Document, DocumentId, Epoch, FeedPage, Head, Heads, ProblemKind,
    access::Identity,
    feed::{CONFIRM_HEADER, EVENT_STREAM, NEXT_HEADER, PAGE},
    listing::NDJSON,
    release::Release,
    schema::{DocumentList, ListStart},
    snapshot::{SnapshotEnd, SnapshotItem, SnapshotStart},
};
use serde_json::json;
use utoipa::ToSchema;

use super::{ApiAnswer, ApiHeader, ApiOperation, ApiSchema, ETAG, VARY};
use crate::http::{
    JSON, freshness,
    health::{METRICS_MEDIA_TYPE, TEXT_MEDIA_TYPE},
};

/// Says where the next page begins.
const NEXT: ApiHeader = ApiHeader {
    name: NEXT_HEADER,
    description: "The `since` of the next page, which can so be requested before this one was read",
    pattern: "^[A-Za-z0-9:,._-]+$",
};

/// Asks for a check-in.
const CONFIRM: ApiHeader = ApiHeader {
    name: CONFIRM_HEADER,
    description: "A request waits for replicas: one that has applied the page is asked to check in",
    pattern: "^applied$",
};

/// The same operation, for one collection.
pub fn of_collection(operation: ApiOperation) -> ApiOperation {
    let schema = ApiSchema::of::<CollectionName>();
    operation.problems(&[ProblemKind::UnknownCollection]).path(
        "collection",
        "Name of the collection",
        schema,
    )
}

/// The same operation, for one document of a collection.
pub fn of_document(operation: ApiOperation) -> ApiOperation {
    of_collection(operation)
        .problems(&[ProblemKind::NoData])
        .path("id", "Id of the document", ApiSchema::of::<DocumentId>())
}

/// The same operation, for the collections that the query selects.
pub fn of_selection(operation: ApiOperation) -> ApiOperation {
    let names = json!({"type": "string", "examples": ["ChannelConfiguration,SkillConfiguration"]});
    let description = "Names, separated by commas; all collections when it is omitted";
    operation
        .query("collections", description, names.into())
        .problems(&[ProblemKind::UnknownCollection])
}

/// The same operation, which waits for a revision when it is asked to.
pub fn from_revision_on(operation: ApiOperation) -> ApiOperation {
    let revision = || ApiSchema::from(json!({"type": "string", "pattern": "^[0-9]{1,19}$"}));
    let description = "The answer shows this revision of the collection or a later one, else 504";
    timeout(operation.header(freshness::HEADER, description, revision()))
        .query(
            freshness::PARAMETER,
            "As the header, for a client that sends none",
            revision(),
        )
        .problems(&[
            ProblemKind::BadRequest,
            ProblemKind::NotFresh,
            ProblemKind::Stopping,
            ProblemKind::StreamsFull,
        ])
}

/// The same operation, with the longest time for which a request waits.
pub fn timeout(operation: ApiOperation) -> ApiOperation {
    operation.query(
        freshness::TIMEOUT,
        "How long it waits at most, like `5s` or `500ms`; 5 s without it, 60 s at most",
        // No `default`: generated clients would send it with every request.
        json!({"type": "string", "pattern": "^(([0-9]|[1-5][0-9]|60)s|([0-9]{1,4}|[1-5][0-9]{4}|60000)ms)$"}).into(),
    )
}

/// The same operation, with the answer 304 for a client that has the content already.
pub fn cached(operation: ApiOperation, headers: &[ApiHeader]) -> ApiOperation {
    let tags = json!({"type": "string"});
    operation
        .header(
            "If-None-Match",
            "Entity tags that the caller has, or `*`",
            tags.clone().into(),
        )
        .header(
            "If-Match",
            "Entity tags of which the answer must have one, or `*`",
            tags.into(),
        )
        .problems(&[ProblemKind::ConditionFailed])
        .answer(ApiAnswer::empty(304, "The caller has the content already").with(headers))
}

/// Answer of the heads of several collections.
pub fn heads() -> ApiAnswer {
    ApiAnswer::json::<Heads>(200, "Heads of one moment")
}

/// Answer of the head of one collection.
pub fn head() -> ApiAnswer {
    ApiAnswer::json::<Head>(200, "Its head")
}

/// Answer of one document.
pub fn document() -> ApiAnswer {
    ApiAnswer::json::<Document>(200, "The document").with(&[ETAG])
}

/// Answer of a list of documents.
pub fn documents() -> ApiAnswer {
    let line = ApiSchema::lines([
        ApiSchema::of::<ListStart>(),
        ApiSchema::of::<Document>(),
        ApiSchema::of::<SnapshotEnd>(),
    ]);
    let description = "Head and documents of one moment, in the format that `Accept` names";
    ApiAnswer::json::<DocumentList>(200, description)
        .content(NDJSON, line)
        .with(&[ETAG, VARY])
}

/// Answer of a snapshot.
pub fn snapshot() -> ApiAnswer {
    let line = ApiSchema::lines([
        ApiSchema::of::<SnapshotStart>(),
        ApiSchema::of::<SnapshotItem>(),
        ApiSchema::of::<SnapshotEnd>(),
    ]);
    ApiAnswer::empty(200, "One JSON text per line").content(NDJSON, line)
}

/// Description of a snapshot.
pub const SNAPSHOT: &str =
    "The last line proves that the snapshot is complete; a snapshot without it was cut off.";

/// The feed of several collections. `I` is the item, `headers` are in every answer.
pub fn feed<I>(operation: ApiOperation, headers: &[ApiHeader]) -> ApiOperation
where
    I: ToSchema,
    FeedPage<I>: ToSchema,
{
    let since =
        json!({"type": "string", "examples": ["ChannelConfiguration:0,SkillConfiguration:0"]});
    let operation = operation.problems(&[ProblemKind::UnknownCollection]);
    feed_since::<I>(operation, since.into(), headers)
}

/// The feed of one collection. `I` is the item, `headers` are in every answer.
pub fn feed_of_collection<I>(operation: ApiOperation, headers: &[ApiHeader]) -> ApiOperation
where
    I: ToSchema,
    FeedPage<I>: ToSchema,
{
    let since = json!({"type": "string", "pattern": "^[0-9]{1,19}$", "examples": ["0"]});
    feed_since::<I>(of_collection(operation), since.into(), headers)
}

/// The feed after a position; `since` is the schema of the position.
fn feed_since<I>(operation: ApiOperation, since: ApiSchema, headers: &[ApiHeader]) -> ApiOperation
where
    I: ToSchema,
    FeedPage<I>: ToSchema,
{
    let text = || ApiSchema::from(json!({"type": "string"}));
    let limit = json!({"type": "integer", "minimum": 0, "maximum": PAGE});
    let page = ApiAnswer::empty(
        200,
        "A page, or with `Accept: text/event-stream` an endless stream of changes",
    )
    .content(JSON, ApiSchema::of::<FeedPage<I>>().with_named::<I>())
    .content(EVENT_STREAM, text())
    .may_have(&[VARY, NEXT, CONFIRM])
    .with(headers);
    operation
        .describe(
            "As a stream of server-sent events it has no end. The event `change` has an item; `resync` ends \
             a stream that cannot continue without a gap.",
        )
        .query(
            "since",
            "The last revision that the caller has. A page requires it; a stream without it begins with the present",
            since,
        )
        .query("epoch", "The epoch of `since`", ApiSchema::of::<Epoch>())
        .query(
            "limit",
            "Most items of a page; a number above the maximum counts as the maximum",
            limit.into(),
        )
        .header("Last-Event-ID", "`id` of the last event that the caller received; it takes precedence over the query", text())
        .problems(&[ProblemKind::FeedGone, ProblemKind::StreamsFull])
        .answer(page)
}

/// `GET /metrics`.
pub fn metrics(operation: ApiOperation) -> ApiOperation {
    let text = json!({"type": "string"});
    operation.answer(
        ApiAnswer::empty(
            200,
            "Metrics, in OpenMetrics format where `Accept` asks for it",
        )
        .content(TEXT_MEDIA_TYPE, text.clone().into())
        .content(METRICS_MEDIA_TYPE, text.into())
        .with(&[VARY]),
    )
}

/// `GET /healthz` and `GET /readyz`, when the answer is positive.
pub fn positive(operation: ApiOperation) -> ApiOperation {
    operation.answer(ApiAnswer::empty(204, "The answer is positive"))
}

/// `GET /v1/identity`.
pub fn identity(operation: ApiOperation) -> ApiOperation {
    operation.answer(ApiAnswer::json::<Identity>(200, "Its name, and its grants"))
}

/// `GET /v1/version`.
pub fn version(operation: ApiOperation) -> ApiOperation {
    operation.answer(ApiAnswer::json::<Release>(
        200,
        "Its version, and the numbers of what it speaks and stores",
    ))
}

/// `GET /openapi.json`.
pub fn openapi(operation: ApiOperation) -> ApiOperation {
    let object = json!({"type": "object", "additionalProperties": true});
    operation.answer(ApiAnswer::empty(200, "OpenAPI 3.1").content(JSON, object.into()))
}
