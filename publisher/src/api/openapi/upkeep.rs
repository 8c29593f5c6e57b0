//! Operations of replicas, operators and orchestrators.

use contract::{
    ProblemKind,
    fleet::{CheckIn, CheckInAnswer, EpochDeclared, ReplicaList, RestoreEpochRequest},
    repair::{DegradedStore, RepairReport, RepairRequest},
    sidecar::TOKEN_HEADER,
};
use serde_json::json;
use service::http::{
    JSON,
    openapi::{ApiAnswer, ApiOperation, ApiSchema, operations},
};

use crate::api::openapi::reading;

pub(crate) fn check_in() -> ApiOperation {
    let summary = "A replica reports its revisions and receives the current heads";
    let instance =
        json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"});
    let token = json!({"type": "string"});
    let operation = ApiOperation::new("checkIn", summary)
        .path(
            "instance",
            "Name of the replica, the same as in the body",
            instance.into(),
        )
        .header(
            TOKEN_HEADER,
            "The token by which `LOCAL` knows its subscribers",
            token.into(),
        )
        .body(JSON, true, ApiSchema::received::<CheckIn>())
        .problems(&[ProblemKind::BadBody, ProblemKind::Busy]);
    reading(operation).answer(ApiAnswer::json::<CheckInAnswer>(
        200,
        "Where the collections stand that it named",
    ))
}

pub(crate) fn replicas() -> ApiOperation {
    let summary = "All replicas, as every publisher of the store knows them";
    let limit = json!({"type": "integer", "minimum": 0});
    reading(ApiOperation::new("listReplicas", summary))
        .query(
            "after",
            "The name that the page before ended with: its `next`",
            json!({"type": "string"}).into(),
        )
        .query(
            "limit",
            "Most replicas of a page; 0 counts as 1, more than 1,000 as 1,000",
            limit.into(),
        )
        .problems(&[ProblemKind::BadRequest])
        .answer(ApiAnswer::json::<ReplicaList>(200, "A page, by name"))
}

pub(crate) fn declare() -> ApiOperation {
    let summary = "The store was restored: everything counts in a new epoch from now on";
    ApiOperation::new("declareEpoch", summary)
        .body(JSON, true, ApiSchema::received::<RestoreEpochRequest>())
        .problems(&[
            ProblemKind::BadBody,
            ProblemKind::NotDeclared,
            ProblemKind::NotDeclaredNow,
            ProblemKind::Stopping,
            ProblemKind::StoreUnavailable,
        ])
        .answer(ApiAnswer::json::<EpochDeclared>(200, "The new epoch"))
}

pub(crate) fn repair() -> ApiOperation {
    let summary = "Finds damaged rows, and makes them true from the change log";
    let operation = ApiOperation::new("repairStore", summary)
        .body(JSON, true, ApiSchema::received::<RepairRequest>())
        .problems(&[
            ProblemKind::BadBody,
            ProblemKind::Busy,
            ProblemKind::UnknownCollection,
        ]);
    reading(operation).answer(ApiAnswer::json::<RepairReport>(
        200,
        "What was found and done",
    ))
}

pub(crate) fn metrics() -> ApiOperation {
    operations::metrics(ApiOperation::new("getMetrics", "What is counted"))
}

pub(crate) fn healthz() -> ApiOperation {
    operations::positive(ApiOperation::new("isAlive", "The process answers"))
}

pub(crate) fn readyz() -> ApiOperation {
    let operation = reading(ApiOperation::new("isReady", "It can do its work"));
    let operation = operations::positive(operation.problems(&[ProblemKind::Stopping]));
    operation.answer(ApiAnswer::json::<DegradedStore>(
        200,
        "It can do its work, and its store has damaged rows",
    ))
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
