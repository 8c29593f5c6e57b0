//! The repair of the store, which an operator asks for.

use std::collections::BTreeSet;

use actix_web::{HttpResponse, web};
use contract::{
    CollectionName, Problem, ProblemKind,
    fleet::RestoreEpochRequest,
    repair::{RepairReport, RepairRequest},
};
use service::http::bodies::Body;

use crate::{
    api::{Api, body::optional_request, error::ApiError, store_failed},
    repair,
};

/// The default request only reports.
pub(super) async fn repair(
    api: web::Data<Api>,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let request: RepairRequest = optional_request(
        &body,
        r#""apply": true|false, "discard": true|false, "collections": ["<name>"]"#,
    )?;
    let collections = selected(&api, &request)?;
    // Each reads the whole store.
    let Ok(_alone) = api.repairing.try_lock() else {
        let detail = "Another repair is under way; nothing was done";
        return Err(Problem::new(ProblemKind::Busy, detail).into());
    };
    let mut report = RepairReport {
        applied: request.apply,
        collections: Vec::new(),
        epoch: None,
        epoch_failure: None,
    };
    let mut needs_epoch = false;
    for collection in &collections {
        let repaired = repair::repair(&api.store, collection, &request)
            .await
            .map_err(store_failed)?;
        needs_epoch |= repaired.needs_epoch;
        report.collections.push(repaired.report);
    }
    if request.apply && needs_epoch {
        match api.fleet.declare(RestoreEpochRequest::default()).await {
            Ok(declared) => report.epoch = Some(declared.epoch),
            Err(error) => report.epoch_failure = Some(error.to_string()),
        }
    }
    Ok(HttpResponse::Ok().json(report))
}

fn selected(api: &Api, request: &RepairRequest) -> Result<BTreeSet<CollectionName>, ApiError> {
    if request.collections.is_empty() {
        return Ok(BTreeSet::clone(&api.policy.collections.all()));
    }
    let names = request.collections.iter();
    names.map(|name| api.collection(name.as_str())).collect()
}
