//! Operations of replicas, operators and orchestrators. It describes them, and does nothing.

use contract::{
    fleet::{CheckIn, CheckInAnswer},
    status::ReplicaStatus,
};
use serde_json::{Value, json};
use service::openapi::{ApiAnswer, ApiDocument, ApiOperation, ApiSchema};

use super::operation;
use crate::routes::metrics;

pub(super) fn add(document: ApiDocument) -> ApiDocument {
    document
        .operation("put", "/v1/replicas/{instance}", check_in())
        .operation("get", "/v1/status", status())
        .operation("get", "/metrics", scrape())
        .operation("get", "/healthz", alive())
        .operation("get", "/readyz", ready())
        .operation("get", "/openapi.json", itself())
}

fn check_in() -> ApiOperation {
    operation(
        "hearHeads",
        "A replica that follows this one hears where this one stands",
    )
    .describe("Nothing is remembered of it: the body is not read.")
    .path(
        "instance",
        "Name of the replica",
        json!({"type": "string", "minLength": 1}).into(),
    )
    .body("application/json", false, ApiSchema::given::<CheckIn>())
    .answer(ApiAnswer::json::<CheckInAnswer>(
        200,
        "Where the collections stand, and since when that is known",
    ))
}

fn status() -> ApiOperation {
    let operation = ApiOperation::new(
        "getStatus",
        "What it holds, how far that may be trusted, and what became of every event",
    );
    operation.answer(ApiAnswer::json::<ReplicaStatus>(200, "Its status"))
}

fn scrape() -> ApiOperation {
    let text = ApiAnswer::empty(200, "For Prometheus")
        .content(metrics::MEDIA_TYPE, json!({"type": "string"}).into());
    ApiOperation::new("getMetrics", "What is counted").answer(text)
}

fn alive() -> ApiOperation {
    ApiOperation::new("isAlive", "The process answers; it says nothing about data")
        .answer(says("alive"))
}

fn ready() -> ApiOperation {
    operation("isReady", "There is something to serve")
        .problem(503, &["stale"])
        .answer(says("ready"))
}

fn says(word: &str) -> ApiAnswer {
    let body: Value = json!({
        "type": "object", "required": ["status"], "properties": {"status": {"type": "string", "const": word}},
    });
    ApiAnswer::empty(200, "It is").content("application/json", body.into())
}

fn itself() -> ApiOperation {
    let answer = ApiAnswer::empty(200, "OpenAPI 3.1")
        .content("application/json", json!({"type": "object"}).into());
    ApiOperation::new("getOpenapi", "This document").answer(answer)
}
