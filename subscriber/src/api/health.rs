//! Answers for an orchestrator and an operator. None of them needs a token, and none waits.

use std::time::Instant;

use actix_web::{HttpResponse, web};
use contract::{
    access::{Right, Target, routes::Service},
    formats,
    release::Release,
    status::ReplicaState,
};
use service::http::{caller::Caller, health, problem::ProblemError};

use super::{Api, error, openapi};

/// `GET /readyz`: the replica has something to serve. Stale values are served, so a stale replica is
/// ready unless a setting says otherwise. One that lacks a collection which its settings name is not
/// ready, although the others can be read: a wrong name ends a rollout and not a service.
///
/// # Errors
/// 503 `loading`, 503 `stale`; 503 `stopping` from the moment at which the process was asked to stop.
pub async fn readyz(api: web::Data<Api>) -> Result<HttpResponse, ProblemError> {
    health::not_draining(&api.drain)?;
    let view = api.replica.view();
    if !view.loaded() {
        return Err(error::loading());
    }
    if !api.ready_when_stale && view.state(Instant::now()) == ReplicaState::Stale {
        return Err(error::stale());
    }
    if let Some(readiness) = &api.readiness {
        readiness.ready().map_err(error::not_ready)?;
    }
    Ok(health::ready())
}

/// `GET /openapi.json`: the routes of this service.
pub async fn openapi() -> HttpResponse {
    health::openapi(openapi::document())
}

/// `GET /v1/version`: which version runs, and the format of its copy on disk.
pub async fn version(api: web::Data<Api>) -> HttpResponse {
    let has_copy = api.replica.config().snapshot_dir.is_some();
    HttpResponse::Ok().json(Release {
        copy_format: has_copy.then_some(formats::IMAGE),
        ..health::release(Service::Subscriber)
    })
}

/// `GET /v1/status`: state, collections and counters of the replica.
pub async fn status(api: web::Data<Api>, caller: Caller) -> HttpResponse {
    let mut status = api.status();
    status.hide_values(
        |name| caller.may(Right::Read, Target::Collection(name)),
        caller.may(Right::Read, Target::Service),
    );
    HttpResponse::Ok().json(status)
}
