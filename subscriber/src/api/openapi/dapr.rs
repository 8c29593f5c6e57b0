//! Operations that a sidecar calls. `replica::actix` serves them; this module only describes them, with
//! the types that both ends use.

use contract::{
    EventData, ProblemKind,
    event::MEDIA_TYPE,
    sidecar::{EventReply, Subscription, TOKEN_HEADER},
};
use serde_json::json;
use service::http::{
    JSON,
    openapi::{ApiAnswer, ApiDocument, ApiOperation, ApiSchema},
};

/// Name of the token among the security schemes.
const TOKEN: &str = "daprApiToken";

/// Adds the token that the operations may require.
pub(super) fn add_token(document: ApiDocument) -> ApiDocument {
    let description = "The `APP_API_TOKEN` of this subscriber, where it has one";
    document.token(TOKEN, TOKEN_HEADER, description)
}

pub(crate) fn subscribe() -> ApiOperation {
    // A sidecar accepts subscriptions without these members; this service sends all of them.
    let subscription = ApiSchema::of::<Subscription>().always_with::<Subscription>(&[
        "pubsubname",
        "topic",
        "routes",
        "deadLetterTopic",
    ]);
    let description = "One per collection; none when another transport brings the events";
    secured(ApiOperation::new(
        "subscribe",
        "The topics that this subscriber subscribes to through its sidecar",
    ))
    .answer(ApiAnswer::empty(200, description).content(JSON, subscription.list()))
}

pub(crate) fn process() -> ApiOperation {
    let envelope = ApiSchema::from(json!({
        "type": "object",
        "description": "A CloudEvent; its `data` is an `EventData`",
        "required": ["specversion", "id", "source", "type", "data"],
        "additionalProperties": true,
    }));
    let reply = ApiSchema::of::<EventReply>().always_with::<EventReply>(&["status"]);
    let answer = ApiAnswer::empty(
        200,
        "The result for the event. The status is always 200; the sidecar reads the result in the body",
    );
    secured(ApiOperation::new("processEvent", "Receive an event, as a structured or a binary CloudEvent"))
        .describe("An event that cannot be read, or is larger than 4 MiB, is dropped; the sidecar sends it to the dead letter topic.")
        .header(
            "ce-id",
            "Binary mode: the id of the event, one of the attributes that are headers there",
            json!({"type": "string"}).into(),
        )
        .body(MEDIA_TYPE, true, envelope)
        .body(JSON, true, ApiSchema::received::<EventData>())
        .answer(answer.content(JSON, reply))
}

fn secured(operation: ApiOperation) -> ApiOperation {
    operation
        .secured(TOKEN)
        .problems(&[ProblemKind::Unauthorized])
}
