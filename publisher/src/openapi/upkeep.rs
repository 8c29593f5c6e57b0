//! Operations of replicas, operators and orchestrators. It describes them, and does nothing.

use contract::fleet::{CheckIn, CheckedIn, EpochDeclared, Fleet, RestoreEpoch};
use serde_json::json;
use service::openapi::{Answer, Document, Operation, Schema};

use super::{operation, reading};
use crate::{manager::local::TOKEN, metrics};

pub(super) fn add(document: Document) -> Document {
    document
        .operation("put", "/v1/replicas/{instance}", check_in())
        .operation("get", "/v1/replicas", replicas())
        .operation("post", "/v1/epoch", declare())
        .operation("get", "/metrics", scrape())
        .operation("get", "/healthz", alive())
        .operation("get", "/readyz", ready())
        .operation("get", "/openapi.json", itself())
}

fn check_in() -> Operation {
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
    .body("application/json", true, Schema::given::<CheckIn>())
    .problem(400, &["bad-body"])
    .problem(503, &["busy"]);
    reading(operation).answer(Answer::json::<CheckedIn>(
        200,
        "Where the collections stand that it named",
    ))
}

fn replicas() -> Operation {
    let operation = reading(operation(
        "listReplicas",
        "All replicas, as every publisher of the store knows them",
    ));
    operation.answer(Answer::json::<Fleet>(200, "By name"))
}

fn declare() -> Operation {
    operation(
        "declareEpoch",
        "The store was restored: everything counts in a new epoch from now on",
    )
    .body("application/json", false, Schema::given::<RestoreEpoch>())
    .problem(400, &["bad-body"])
    .problem(409, &["not-declared"])
    .problem(503, &["not-declared", "stopping", "store-unavailable"])
    .answer(Answer::json::<EpochDeclared>(200, "The new epoch"))
}

fn scrape() -> Operation {
    let text = Answer::empty(200, "For Prometheus")
        .content(metrics::MEDIA_TYPE, json!({"type": "string"}).into());
    operation("getMetrics", "What is counted").answer(text)
}

fn alive() -> Operation {
    operation("isAlive", "The process answers").answer(Answer::empty(204, "It is"))
}

fn ready() -> Operation {
    reading(operation("isReady", "It can do its work")).answer(Answer::empty(204, "It is"))
}

fn itself() -> Operation {
    let answer = Answer::empty(200, "OpenAPI 3.1")
        .content("application/json", json!({"type": "object"}).into());
    operation("getOpenapi", "This document").answer(answer)
}
