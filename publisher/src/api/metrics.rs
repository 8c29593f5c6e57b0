//! `GET /metrics`, for Prometheus and OpenMetrics scrapers.

use actix_web::{HttpRequest, HttpResponse, web};
use service::http::{health, problem::ProblemError};

use crate::{api::Api, metrics::Scrape};

/// The counters of this process, and the replicas. Without an answer of the store, the numbers of
/// replicas, dead letters and pending events are left out.
pub(super) async fn metrics(
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, ProblemError> {
    let fleet = api.fleet.list().await.ok();
    let replicas = fleet.as_ref().map(|fleet| fleet.replicas.as_slice());
    let heads = api.store.heads(&api.policy.collections.all()).await.ok();
    let scrape = Scrape {
        store: &api.store,
        streams: &api.streams,
        replicas,
        heads: heads.as_deref(),
        letters: api.dead_letters.counts().await,
        backlog: api.store.backlog().await.ok(),
    };
    health::metrics(&request, api.metrics.text(scrape))
}
