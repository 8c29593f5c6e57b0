//! `GET /metrics`, for Prometheus and OpenMetrics scrapers.

use actix_web::{HttpRequest, HttpResponse, web};
use service::http::{health, problem::ProblemError};
use tokio::time::Instant;

use crate::{
    api::Api,
    fleet::Record,
    metrics::{Replicas, Scrape},
};

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
        api.fleet.records(),
        api.store.heads(&collections),
        api.dead_letters.counts(),
        api.store.backlog()
    );
    let records = fleet.ok();
    let unlisted = api.fleet.unlisted();
    let replicas = (records.as_deref()).map(|records| by_presence(records, unlisted));
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

fn by_presence(records: &[Record], unlisted: usize) -> Replicas<'_> {
    let now = Instant::now();
    let (gone, live): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.is_gone(now));
    Replicas {
        live: (live.iter())
            .map(|record| &record.row.record.check_in)
            .collect(),
        gone: gone.len(),
        unlisted,
    }
}
