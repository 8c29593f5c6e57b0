//! Operations that a sidecar calls. `replica::actix` serves them.

use contract::{EventData, ProblemKind};
use serde_json::{Value, json};
use service::http::{
    JSON,
    openapi::{ApiAnswer, ApiDocument, ApiOperation, ApiSchema},
};

/// Name of the token among the security schemes.
const TOKEN: &str = "daprApiToken";

/// Adds the token that the operations may require.
pub(super) fn add_token(document: ApiDocument) -> ApiDocument {
    let description = "The `APP_API_TOKEN` of this subscriber, where it has one";
    document.token(TOKEN, "dapr-api-token", description)
}

pub(crate) fn subscribe() -> ApiOperation {
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
    let description = "One per collection; none when events come another way";
    secured(ApiOperation::new(
        "subscribe",
        "The topics that this subscriber wants of its sidecar",
    ))
    .answer(ApiAnswer::empty(200, description).content(JSON, list.into()))
}

pub(crate) fn process() -> ApiOperation {
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
        .body(JSON, true, ApiSchema::received::<EventData>())
        .answer(answer.content(JSON, status.into()))
}

fn secured(operation: ApiOperation) -> ApiOperation {
    operation
        .secured(TOKEN)
        .problems(&[ProblemKind::Unauthorized])
}
