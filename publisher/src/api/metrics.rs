//! `GET /metrics`, for Prometheus and OpenMetrics scrapers.

use actix_web::{HttpResponse, web};
use service::http::health;

use crate::api::Api;

/// The counters of this process, and the replicas. Without an answer of the store, the numbers of
/// replicas are left out.
pub(super) async fn metrics(api: web::Data<Api>) -> HttpResponse {
    let fleet = api.fleet.list().await.ok();
    let replicas = fleet.as_ref().map(|fleet| fleet.replicas.as_slice());
    let damage = api.store.damage().summary();
    health::metrics(api.metrics.text(replicas, &damage))
}
