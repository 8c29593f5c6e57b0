//! How many replicas have applied a revision, at a fake publisher: as a test says.

use std::sync::Mutex;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use contract::{Problem, ProblemKind, applied::Applied};

use super::{FakePublisher, Store};

/// An answer, or the problem of one.
pub(crate) type Script = Result<Applied, ProblemKind>;

pub(super) fn routes(config: &mut ServiceConfig) {
    config.route(
        "/v1/collections/{collection}/applied",
        web::get().to(applied),
    );
}

impl FakePublisher {
    /// Gives these answers, one after the other.
    pub(crate) fn will_answer_applied(&self, script: impl IntoIterator<Item = Script>) {
        self.store.lock().expect("no panic").applied = script.into_iter().collect();
    }

    /// The queries of the requests for `applied`.
    pub(crate) fn applied_queries(&self) -> Vec<String> {
        let store = self.store.lock().expect("no panic");
        store.applied_queries.clone()
    }
}

async fn applied(request: HttpRequest, store: Data<Mutex<Store>>) -> HttpResponse {
    let mut store = store.lock().expect("no panic");
    store
        .applied_queries
        .push(request.query_string().to_owned());
    match store.applied.pop_front().expect("the test says it") {
        Ok(applied) => HttpResponse::Ok().json(applied),
        Err(kind) => {
            let problem = Problem::new(kind, "on purpose");
            HttpResponse::build(kind.status().try_into().expect("a status")).json(problem)
        }
    }
}
