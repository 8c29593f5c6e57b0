//! Operations of replicas, operators and orchestrators.

use contract::{
    ProblemKind,
    fleet::{CheckIn, CheckInAnswer},
    status::ReplicaStatus,
};
use serde_json::json;
use service::http::{
    JSON,
    openapi::{ApiAnswer, ApiOperation, ApiSchema, operations},
};

use super::operation;

pub(crate) fn check_in() -> ApiOperation {
    let summary = "A replica that follows this one hears where this one stands";
    let instance = json!({"type": "string", "minLength": 1});
    let answer = ApiAnswer::json::<CheckInAnswer>(
        200,
        "Where the collections stand, and since when that is known",
    );
    operation("hearHeads", summary)
        .describe("Nothing is remembered of it: the body is not read.")
        .path("instance", "Name of the replica", instance.into())
        .body(JSON, false, ApiSchema::received::<CheckIn>())
        .answer(answer)
}

pub(crate) fn status() -> ApiOperation {
    let summary = "What it holds, how far that may be trusted, and what became of every event";
    ApiOperation::new("getStatus", summary)
        .answer(ApiAnswer::json::<ReplicaStatus>(200, "Its status"))
}

pub(crate) fn metrics() -> ApiOperation {
    operations::metrics(ApiOperation::new("getMetrics", "What is counted"))
}

pub(crate) fn healthz() -> ApiOperation {
    let summary = "The process answers; it says nothing about data";
    operations::positive(ApiOperation::new("isAlive", summary))
}

pub(crate) fn readyz() -> ApiOperation {
    let operation = operation("isReady", "There is something to serve");
    operations::positive(operation.problems(&[ProblemKind::Stale, ProblemKind::Stopping]))
}

pub(crate) fn version() -> ApiOperation {
    let summary = "Which version runs, and what an upgrade has to know of it";
    operations::version(ApiOperation::new("getVersion", summary))
}

pub(crate) fn identity() -> ApiOperation {
    let summary = "Who the caller is here, and what it may do";
    operations::identity(ApiOperation::new("getIdentity", summary))
}

pub(crate) fn openapi() -> ApiOperation {
    operations::openapi(ApiOperation::new("getOpenapi", "This document"))
}
