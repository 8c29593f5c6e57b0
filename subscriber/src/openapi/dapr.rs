//! Operations that a sidecar calls. It describes them, and does nothing.

use contract::{EventData, event};
use serde_json::{Value, json};
use service::openapi::{ApiAnswer, ApiDocument, ApiOperation, ApiSchema};

/// Name of the token among the ways to be let in.
const TOKEN: &str = "daprApiToken";

pub(super) fn add(document: ApiDocument) -> ApiDocument {
    document
        .token(
            TOKEN,
            "dapr-api-token",
            "The `APP_API_TOKEN` of this subscriber, where it has one",
        )
        .operation("get", event::SUBSCRIBE_ROUTE, subscribe())
        .operation("post", event::ROUTE, process())
}

fn subscribe() -> ApiOperation {
    let text = || json!({"type": "string"});
    let subscription = json!({
        "type": "object",
        "required": ["pubsubname", "topic", "routes", "deadLetterTopic"],
        "properties": {
            "pubsubname": text(),
            "topic": text(),
            "routes": {"type": "object", "required": ["default"], "properties": {"default": text()}},
            "deadLetterTopic": text(),
        },
    });
    let list: Value = json!({"type": "array", "items": subscription});
    secured(ApiOperation::new(
        "subscribe",
        "The topics that this subscriber wants of its sidecar",
    ))
    .answer(
        ApiAnswer::empty(200, "One per collection; none when events come another way")
            .content("application/json", list.into()),
    )
}

fn process() -> ApiOperation {
    let envelope = ApiSchema::from(json!({
        "type": "object",
        "description": "A CloudEvent; its `data` is an `EventData`",
        "required": ["specversion", "id", "source", "type", "data"],
    }));
    let status: Value = json!({
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"enum": ["SUCCESS", "RETRY", "DROP"]}, "error": {"type": "string"}},
    });
    let answer = ApiAnswer::empty(
        200,
        "What becomes of the event: whatever it is, the sidecar hears it in the body",
    );
    secured(ApiOperation::new("processEvent", "An event, as a structured CloudEvent or a binary one"))
        .describe("An event that cannot be read, or is larger than 4 MiB, is dropped; the sidecar puts it to the dead letters.")
        .body("application/cloudevents+json", true, envelope)
        .body("application/json", true, ApiSchema::given::<EventData>())
        .answer(answer.content("application/json", status.into()))
}

fn secured(operation: ApiOperation) -> ApiOperation {
    operation.secured(TOKEN).problem(401, &["unauthorized"])
}
