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
    // Side by side: a store that hangs holds up each, and Prometheus waits for 10 s.
    let collections = api.policy.collections.all();
    let (ready, fleet, heads, letters, backlog) = tokio::join!(
        api.readiness.check(&api.store),
        api.fleet.list(),
        api.store.heads(&collections),
        api.dead_letters.counts(),
        api.store.backlog()
    );
    let fleet = fleet.ok();
    let replicas = fleet.as_ref().map(|fleet| fleet.replicas.as_slice());
    let heads = heads.ok();
    let scrape = Scrape {
        store: &api.store,
        store_ready: ready.is_ok(),
        streams: &api.streams,
        replicas,
        heads: heads.as_deref(),
        letters,
        backlog: backlog.ok(),
    };
    health::metrics(&request, api.metrics.text(scrape))
}
