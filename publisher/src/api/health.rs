//! Answers for orchestrators: whether the process can do its work, and what it offers.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    Problem, ProblemKind,
    access::routes::Service,
    formats,
    release::{Release, StoreKind, StoreRelease},
    repair::DegradedStore,
};
use service::{
    http::{caller::is_known, health},
    runtime::log_rate::LogRate,
};
use tokio::time::timeout;

use crate::{
    api::{Api, error::ApiError, openapi},
    store::{Store, damage::DamageSummary, is_not_open},
};

/// Time limit of the answer: a Dapr sidecar gives up after 500 ms.
const ANSWER_TIME: Duration = Duration::from_millis(400);
/// How long a store that does not answer in this time still counts as ready: a busy store is slow at
/// times.
const TRUST: Duration = Duration::from_secs(3);

/// Whether the store can be read and written, as checks have found it.
#[derive(Debug, Default)]
pub struct Readiness {
    /// One check at a time, however many ask.
    checking: tokio::sync::Mutex<()>,
    last: Mutex<LastCheck>,
}

#[derive(Debug, Default)]
struct LastCheck {
    succeeded: Option<Instant>,
    failure: Option<String>,
}

impl Readiness {
    /// Checks the store, within [`ANSWER_TIME`].
    ///
    /// # Errors
    /// Why it cannot be read or written.
    pub(super) async fn check(&self, store: &Store) -> Result<(), String> {
        if let Ok(_alone) = self.checking.try_lock() {
            match timeout(ANSWER_TIME, store.check()).await {
                Ok(Err(error)) => {
                    log(store, &error);
                    *self.last() = LastCheck {
                        succeeded: None,
                        failure: Some(error.root_cause().to_string()),
                    };
                }
                Ok(_works) => {
                    *self.last() = LastCheck {
                        succeeded: Some(Instant::now()),
                        failure: None,
                    };
                }
                Err(_elapsed) => {}
            }
        }
        let last = self.last();
        if let Some(failure) = &last.failure {
            return Err(failure.clone());
        }
        match last.succeeded {
            Some(at) if at.elapsed() < TRUST => Ok(()),
            _ => Err("it does not answer in time".to_owned()),
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, LastCheck> {
        // No code that holds the lock leaves the value half changed.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that does not answer may answer again; a disk that is full or fails needs a person.
fn log(store: &Store, error: &anyhow::Error) {
    static FAILURES: LogRate = LogRate::new();
    if is_not_open(error) {
        return;
    }
    let Some(left_out) = FAILURES.due() else {
        return;
    };
    let line =
        format!("the store cannot be read or written, /readyz answers 503: {error:#}{left_out}");
    match store {
        Store::Embedded(_) => tracing::error!("{line}"),
        Store::Mongo(_) => tracing::warn!("{line}"),
    }
}

fn degraded(damage: &DamageSummary, is_known: bool) -> Option<DegradedStore> {
    let (collection, part) = damage.example.as_ref()?;
    let shown = |count| is_known.then_some(count);
    Some(DegradedStore {
        status: "degraded".to_owned(),
        detail: if is_known {
            format!(
                "The store has damaged rows, for example {part} of {collection}; `confcast repair` \
                 shows them"
            )
        } else {
            "The store has damaged rows; `confcast repair` and the log name them".to_owned()
        },
        from_log: shown(damage.from_log),
        ignored: shown(damage.ignored),
        refused: shown(damage.refused),
    })
}

/// `GET /readyz`: the store can be read and written. 204; 200 with a body if rows of it are damaged.
///
/// It needs no credential, so where the service has credentials it says nothing of what is stored,
/// or where. 503 as well from the moment at which the process was asked to stop.
pub(super) async fn readyz(
    api: web::Data<Api>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    health::not_draining(&api.drain)?;
    let is_known = is_known(&request);
    if let Err(reason) = api.readiness.check(&api.store).await {
        let detail = if is_known {
            format!("The store cannot be read or written: {reason}")
        } else {
            "The store cannot be read or written; the log says why".to_owned()
        };
        return Err(Problem::new(ProblemKind::StoreUnavailable, detail).into());
    }
    Ok(match degraded(&api.store.damage().summary(), is_known) {
        Some(body) => HttpResponse::Ok().json(body),
        None => health::ready(),
    })
}

/// `GET /v1/version`: which version runs, with which store.
pub(super) async fn version(api: web::Data<Api>) -> HttpResponse {
    let kind = match api.store {
        Store::Embedded(_) => StoreKind::Embedded,
        Store::Mongo(_) => StoreKind::MongoDb,
    };
    HttpResponse::Ok().json(Release {
        store: Some(StoreRelease {
            kind,
            format: formats::STORE,
        }),
        ..health::release(Service::Publisher)
    })
}

/// `GET /openapi.json`: the routes of this service.
pub(super) async fn openapi() -> HttpResponse {
    health::openapi(openapi::document())
}
