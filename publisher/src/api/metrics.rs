//! `GET /metrics`, for Prometheus and OpenMetrics scrapers.

use actix_web::{HttpRequest, HttpResponse, web};
use service::http::{health, problem::ProblemError};

use crate::api::Api;

/// The counters of this process, and the replicas. Without an answer of the store, the numbers of
/// replicas, dead letters and pending events are left out.
pub(super) async fn metrics(
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, ProblemError> {
    let fleet = api.fleet.list().await.ok();
    let replicas = fleet.as_ref().map(|fleet| fleet.replicas.as_slice());
    let damage = api.store.damage().summary();
    let letters = api.dead_letters.counts().await;
    let backlog = api.store.backlog().await.ok();
    health::metrics(
        &request,
        api.metrics.text(replicas, &damage, letters, backlog),
    )
}
