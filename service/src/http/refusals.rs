//! Counts of refused requests, by reason and by the right that was missing. Labels come from fixed
//! lists, never from a request.

use actix_web::{HttpRequest, web::Data};
use contract::{ProblemKind, access::Right};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// The counts of one service. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Family<[(&'static str, &'static str); 2], Counter>);

impl Refusals {
    /// Those of the service that handles the request.
    pub fn of(request: &HttpRequest) -> Self {
        let counts = request.app_data::<Data<Self>>();
        counts.map(|counts| Self::clone(counts)).unwrap_or_default()
    }

    /// Counts a refusal.
    pub fn count(&self, reason: ProblemKind, right: Option<Right>) {
        let right = right.map_or("none", Right::as_str);
        let labels = [("reason", reason.as_str()), ("right", right)];
        self.0.get_or_create(&labels).inc();
    }

    /// Adds the metric `refusals` to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "refusals",
            "Requests that were refused, by the type of the problem and by the right that was missing",
            self.0.clone(),
        );
    }
}
