//! Operations of replicas, operators and orchestrators. It describes them, and does nothing.

use contract::fleet::{CheckIn, CheckInAnswer, EpochDeclared, ReplicaList, RestoreEpochRequest};
use serde_json::json;
use service::openapi::{ApiAnswer, ApiDocument, ApiOperation, ApiSchema};

use crate::{
    api::openapi::{operation, reading},
    metrics,
    transport::direct::TOKEN,
};

pub(super) fn add(document: ApiDocument) -> ApiDocument {
    document
        .operation("put", "/v1/replicas/{instance}", check_in())
        .operation("get", "/v1/replicas", replicas())
        .operation("post", "/v1/epoch", declare())
        .operation("get", "/metrics", scrape())
        .operation("get", "/healthz", alive())
        .operation("get", "/readyz", ready())
        .operation("get", "/openapi.json", itself())
}

fn check_in() -> ApiOperation {
    let instance =
        json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"});
    let operation = operation(
        "checkIn",
        "A replica says where it is, and hears where everything stands",
    )
    .path(
        "instance",
        "Name of the replica, the same as in the body",
        instance.into(),
    )
    .header(
        TOKEN,
        "The token by which `LOCAL` knows its subscribers",
        json!({"type": "string"}).into(),
    )
    .body("application/json", true, ApiSchema::given::<CheckIn>())
    .problem(400, &["bad-body"])
    .problem(503, &["busy"]);
    reading(operation).answer(ApiAnswer::json::<CheckInAnswer>(
        200,
        "Where the collections stand that it named",
    ))
}

fn replicas() -> ApiOperation {
    let operation = reading(operation(
        "listReplicas",
        "All replicas, as every publisher of the store knows them",
    ));
    operation.answer(ApiAnswer::json::<ReplicaList>(200, "By name"))
}

fn declare() -> ApiOperation {
    operation(
        "declareEpoch",
        "The store was restored: everything counts in a new epoch from now on",
    )
    .body(
        "application/json",
        false,
        ApiSchema::given::<RestoreEpochRequest>(),
    )
    .problem(400, &["bad-body"])
    .problem(409, &["not-declared"])
    .problem(503, &["not-declared", "stopping", "store-unavailable"])
    .answer(ApiAnswer::json::<EpochDeclared>(200, "The new epoch"))
}

fn scrape() -> ApiOperation {
    let text = ApiAnswer::empty(200, "For Prometheus")
        .content(metrics::MEDIA_TYPE, json!({"type": "string"}).into());
    operation("getMetrics", "What is counted").answer(text)
}

fn alive() -> ApiOperation {
    operation("isAlive", "The process answers").answer(ApiAnswer::empty(204, "It is"))
}

fn ready() -> ApiOperation {
    reading(operation("isReady", "It can do its work")).answer(ApiAnswer::empty(204, "It is"))
}

fn itself() -> ApiOperation {
    let answer = ApiAnswer::empty(200, "OpenAPI 3.1")
        .content("application/json", json!({"type": "object"}).into());
    operation("getOpenapi", "This document").answer(answer)
}
