//! Operations of replicas, operators and orchestrators. It describes them, and does nothing.

use contract::{
    fleet::{CheckIn, CheckedIn},
    status::Status,
};
use serde_json::{Value, json};
use service::openapi::{Answer, Document, Operation, Schema};

use super::operation;
use crate::routes::metrics;

pub(super) fn add(document: Document) -> Document {
    document
        .operation("put", "/v1/replicas/{instance}", check_in())
        .operation("get", "/v1/status", status())
        .operation("get", "/metrics", scrape())
        .operation("get", "/healthz", alive())
        .operation("get", "/readyz", ready())
        .operation("get", "/openapi.json", itself())
}

fn check_in() -> Operation {
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
    .body("application/json", false, Schema::given::<CheckIn>())
    .answer(Answer::json::<CheckedIn>(
        200,
        "Where the collections stand, and since when that is known",
    ))
}

fn status() -> Operation {
    let operation = Operation::new(
        "getStatus",
        "What it holds, how far that may be trusted, and what became of every event",
    );
    operation.answer(Answer::json::<Status>(200, "Its status"))
}

fn scrape() -> Operation {
    let text = Answer::empty(200, "For Prometheus")
        .content(metrics::MEDIA_TYPE, json!({"type": "string"}).into());
    Operation::new("getMetrics", "What is counted").answer(text)
}

fn alive() -> Operation {
    Operation::new("isAlive", "The process answers; it says nothing about data")
        .answer(says("alive"))
}

fn ready() -> Operation {
    operation("isReady", "There is something to serve")
        .problem(503, &["stale"])
        .answer(says("ready"))
}

fn says(word: &str) -> Answer {
    let body: Value = json!({
        "type": "object", "required": ["status"], "properties": {"status": {"type": "string", "const": word}},
    });
    Answer::empty(200, "It is").content("application/json", body.into())
}

fn itself() -> Operation {
    let answer = Answer::empty(200, "OpenAPI 3.1")
        .content("application/json", json!({"type": "object"}).into());
    Operation::new("getOpenapi", "This document").answer(answer)
}
