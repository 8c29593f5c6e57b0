//! The HTTP API: read the request, call the writer or the store, answer. No rule of the domain
//! lives here.
//!
//! What the subscriber answers in the same way is in [`service::http`].

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
};

use actix_web::{
    Error, HttpRequest,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::Method,
    middleware::{Next, from_fn},
    web::{self, ServiceConfig},
};
use contract::{
    CollectionName, DocumentId, Head,
    access::{Right, Target, routes as at},
    dead_letter::MAX_REPORT,
    token::MAX_TOKEN_REQUEST,
};
use service::{
    http::{
        access::{Layer, authenticate},
        bodies,
        caller::Caller,
        framing::frame_answers,
        guard::{Guard, GuardSettings, guard},
        health as shared,
        methods::{Role, answer_methods, no_such_route},
        problem::ProblemError,
        rate::Rates,
        routes::{self, ApiRoute},
        shared_text::SharedTexts,
        snapshot_slots::{Client, SnapshotSlot, SnapshotSlots},
        stream_slots::StreamSlots,
        trace::trace,
    },
    runtime::{drain::Drain, log_rate::LogRate},
};

use crate::{
    api::error::ApiError,
    feed_watch::FeedWatch,
    metrics::Metrics,
    store::{PublisherPolicy, Store, integrity, is_not_open},
    write::queue::Writer,
};

mod audit;
pub(crate) mod body;
mod collections;
mod conflict;
mod dead_letters;
pub(crate) mod documents;
pub mod error;
mod feed;
mod fleet;
mod fresh;
pub(crate) mod health;
mod history;
pub(crate) mod load_heads;
mod metrics;
pub mod openapi;
mod origin;
mod past;
mod referrers;
mod repair;
mod rollback;
pub(crate) mod schemas;
mod sets;
pub(crate) mod sidecar;
mod snapshots;
mod stream;
mod tokens;
mod wait;

/// What handlers share.
pub struct Api {
    /// Reads.
    pub store: Store,
    /// Writes.
    pub writer: Writer,
    /// Collections and rules.
    pub policy: Arc<PublisherPolicy>,
    /// Replicas.
    pub fleet: crate::fleet::Fleet,
    /// Limit for snapshots.
    pub snapshots: SnapshotSlots,
    /// Snapshots that are being read, by their heads.
    pub shared_snapshots: SharedTexts<Vec<Head>>,
    /// Heads for loads that have no slot.
    pub load_heads: load_heads::LoadHeads,
    /// Limit for lists.
    pub lists: SnapshotSlots,
    /// Limit for pages of history and for rollbacks.
    pub histories: SnapshotSlots,
    /// New heads for live streams.
    pub feed: FeedWatch,
    /// Limit for live streams.
    pub streams: StreamSlots,
    /// Dead letters.
    pub dead_letters: crate::dead_letters::DeadLetters,
    /// The component with which the sidecar reads the dead letter topic; `None` with another transport
    /// than `DAPR`.
    pub sidecar_pubsub: Option<String>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Repairs, one at a time.
    pub repairs: crate::repair::Repairs,
    /// How often one caller may send requests.
    pub rates: Rates,
    /// The audit log.
    pub audit: crate::audit::Audit,
    /// The tokens of the store.
    pub tokens: crate::token_watch::TokenWatch,
    /// Decides who a caller is.
    pub authenticator: Arc<auth::Authenticator>,
    /// Whether the store can be read and written.
    pub readiness: health::Readiness,
    /// Whether the process was asked to stop.
    pub drain: Drain,
}

/// Longest request body in bytes: a document or a set in any encoding, with capacity for white space
/// and escapes.
const BODY_LIMIT: usize = 8 << 20;

/// Adds all routes, behind the guard and the authentication.
pub fn configure(config: &mut ServiceConfig, settings: &GuardSettings, layer: &Layer) {
    let layer = layer.clone();
    let settings = Rc::new(Guard::new(settings.clone()));
    let table = table();
    let mut writes = Writes::new();
    for route in table.iter().filter(|route| route.is_write()) {
        let methods = writes.entry(route.path()).or_default();
        methods.push(route.method().clone());
    }
    let writes = Rc::new(writes);
    // The last one is the outermost: no body is received for a caller that is refused.
    let routes = routes::add(web::scope(""), table)
        .wrap(from_fn(answer_methods))
        .wrap(from_fn(bodies::receive))
        .wrap(from_fn(move |request, next| {
            authenticate(layer.clone(), request, next)
        }))
        .wrap(from_fn(move |request, next| {
            guard(Rc::clone(&settings), request, next)
        }))
        .wrap(from_fn(move |request, next| {
            count_answers(Rc::clone(&writes), request, next)
        }))
        .wrap(from_fn(trace))
        .wrap(from_fn(frame_answers));
    let role = Role {
        service: "publisher",
        elsewhere: None,
    };
    config
        .app_data(web::Data::new(role))
        .app_data(
            web::QueryConfig::default()
                .error_handler(|error, _request| ProblemError::unreadable(error).into()),
        )
        .app_data(
            web::PathConfig::default()
                .error_handler(|error, _request| ProblemError::unreadable(error).into()),
        )
        .service(routes)
        .default_service(web::to(no_such_route));
}

/// All routes, in the order in which actix-web tries them.
pub(crate) fn table() -> Vec<ApiRoute> {
    use openapi::{
        audit as of_audit, letters, past as of_past, reads, tokens as of_tokens, upkeep, writes,
    };
    vec![
        ApiRoute::new(at::GET_HEADS, collections::heads, reads::heads),
        ApiRoute::new(at::GET_HEAD, collections::head, reads::head),
        ApiRoute::new(at::GET_SNAPSHOT, collections::snapshot, reads::snapshot),
        ApiRoute::new(at::GET_CHANGES, feed::all, reads::feed),
        ApiRoute::new(at::COMMIT_CHANGE_SET, sets::commit, writes::change_set)
            .counts_as_write()
            .body_limit(BODY_LIMIT),
        ApiRoute::new(
            at::GET_COLLECTION_CHANGES,
            feed::one,
            reads::feed_of_collection,
        ),
        ApiRoute::new(
            at::GET_COLLECTION_HISTORY,
            history::of_collection,
            of_past::history_of_collection,
        ),
        ApiRoute::new(at::GET_APPLIED, wait::applied, reads::applied),
        ApiRoute::new(
            at::ROLL_BACK_COLLECTION,
            rollback::of_collection,
            of_past::rollback_of_collection,
        )
        .counts_as_write()
        .body_limit(rollback::LIMIT),
        ApiRoute::new(at::GET_DOCUMENTS, collections::documents, reads::documents),
        ApiRoute::new(at::CREATE_DOCUMENT, documents::create, writes::create)
            .counts_as_write()
            .body_limit(BODY_LIMIT),
        ApiRoute::new(at::GET_DOCUMENT, documents::get, reads::document),
        ApiRoute::new(at::PUT_DOCUMENT, documents::put, writes::put)
            .counts_as_write()
            .body_limit(BODY_LIMIT),
        ApiRoute::new(at::PATCH_DOCUMENT, documents::patch, writes::patch)
            .counts_as_write()
            .body_limit(BODY_LIMIT),
        ApiRoute::new(at::DELETE_DOCUMENT, documents::delete, writes::delete).counts_as_write(),
        ApiRoute::new(at::GET_REFERRERS, referrers::get, reads::referrers),
        ApiRoute::new(
            at::GET_DOCUMENT_HISTORY,
            history::of_document,
            of_past::history_of_document,
        ),
        ApiRoute::new(
            at::ROLL_BACK_DOCUMENT,
            rollback::of_document,
            of_past::rollback_of_document,
        )
        .counts_as_write()
        .body_limit(rollback::LIMIT),
        ApiRoute::new(at::GET_HISTORY, history::of_store, of_past::history),
        ApiRoute::new(
            at::ROLL_BACK_SET,
            rollback::of_set,
            of_past::rollback_of_set,
        )
        .counts_as_write()
        .body_limit(rollback::LIMIT),
        ApiRoute::new(at::GET_NAMED_SNAPSHOTS, snapshots::list, of_past::snapshots),
        ApiRoute::new(
            at::GET_NAMED_SNAPSHOT,
            snapshots::get,
            of_past::named_snapshot,
        ),
        ApiRoute::new(
            at::CREATE_NAMED_SNAPSHOT,
            snapshots::create,
            of_past::create_snapshot,
        )
        .counts_as_write(),
        ApiRoute::new(
            at::DELETE_NAMED_SNAPSHOT,
            snapshots::delete,
            of_past::delete_snapshot,
        )
        .counts_as_write(),
        ApiRoute::new(at::GET_REPLICAS, fleet::list, upkeep::replicas),
        ApiRoute::new(at::CHECK_IN, fleet::check_in, upkeep::check_in).body_limit(fleet::LIMIT),
        ApiRoute::new(at::DECLARE_EPOCH, fleet::declare, upkeep::declare).body_limit(fleet::LIMIT),
        ApiRoute::new(at::REPAIR, repair::repair, upkeep::repair).body_limit(fleet::LIMIT),
        ApiRoute::new(at::GET_DEAD_LETTERS, dead_letters::list, letters::list),
        ApiRoute::new(
            at::REPORT_DEAD_LETTER,
            dead_letters::report,
            letters::report,
        )
        .body_limit(MAX_REPORT),
        ApiRoute::new(
            at::DISCARD_DEAD_LETTERS,
            dead_letters::discard_all,
            letters::discard_all,
        ),
        ApiRoute::new(at::GET_DEAD_LETTER, dead_letters::get, letters::get),
        ApiRoute::new(
            at::DISCARD_DEAD_LETTER,
            dead_letters::discard,
            letters::discard,
        ),
        ApiRoute::new(
            at::REPLAY_DEAD_LETTER,
            dead_letters::replay,
            letters::replay,
        ),
        ApiRoute::new(
            at::SIDECAR_SUBSCRIPTIONS,
            sidecar::subscribe,
            letters::subscribe,
        ),
        ApiRoute::new(at::SIDECAR_DEAD_LETTERS, sidecar::receive, letters::receive)
            .body_limit(BODY_LIMIT),
        ApiRoute::new(at::GET_AUDIT, audit::list, of_audit::list),
        ApiRoute::new(at::GET_AUDIT_TIPS, audit::tips, of_audit::tips),
        ApiRoute::new(at::GET_SCHEMAS, schemas::list, reads::schemas),
        ApiRoute::new(at::GET_SCHEMA, schemas::get, reads::schema),
        ApiRoute::new(at::GET_SAMPLE, schemas::sample, reads::sample),
        ApiRoute::new(at::GET_TOKENS, tokens::list, of_tokens::list),
        ApiRoute::new(at::CREATE_TOKEN, tokens::create, of_tokens::create)
            .body_limit(MAX_TOKEN_REQUEST),
        ApiRoute::new(at::REVOKE_TOKEN, tokens::revoke, of_tokens::revoke),
        ApiRoute::new(at::GET_VERSION, health::version, upkeep::version),
        ApiRoute::new(at::GET_IDENTITY, shared::identity, upkeep::identity),
        ApiRoute::new(at::GET_OPENAPI, health::openapi, upkeep::openapi),
        ApiRoute::new(at::GET_METRICS, metrics::metrics, upkeep::metrics),
        ApiRoute::new(at::GET_HEALTH, shared::healthz, upkeep::healthz),
        ApiRoute::new(at::GET_READINESS, health::readyz, upkeep::readyz),
    ]
}

/// The routes that count as writes: the methods of each pattern.
type Writes = HashMap<&'static str, Vec<Method>>;

/// Middleware around all routes: it counts writes by the status of their answer, and records the
/// requests that were refused for what their caller is or may do.
async fn count_answers(
    writes: Rc<Writes>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let is_write = !request.method().is_safe()
        && routes::pattern(request.request())
            .and_then(|pattern| writes.get(&*pattern))
            .is_some_and(|methods| methods.contains(request.method()));
    let metrics = request.app_data::<web::Data<Api>>();
    let metrics = metrics.filter(|_api| is_write);
    let metrics = metrics.map(|api| api.metrics.clone());
    let answer = next.call(request).await?;
    // Here and not in the handlers, so that writes which no handler sees are counted as well.
    if let Some(metrics) = metrics {
        metrics.write(answer.status().as_u16());
    }
    audit::record_refusal(&answer);
    Ok(answer)
}

impl Api {
    /// A slot for a list.
    ///
    /// # Errors
    /// 503 `loads-under-way`.
    async fn list_slot(&self, request: &HttpRequest) -> Result<SnapshotSlot, ApiError> {
        self.slot(&self.lists, request, ProblemError::lists_under_way)
            .await
    }

    /// A slot for work on the past.
    ///
    /// # Errors
    /// 503 `loads-under-way`.
    async fn history_slot(&self, request: &HttpRequest) -> Result<SnapshotSlot, ApiError> {
        self.slot(&self.histories, request, ProblemError::histories_under_way)
            .await
    }

    async fn slot(
        &self,
        slots: &SnapshotSlots,
        request: &HttpRequest,
        refusal: fn() -> ProblemError,
    ) -> Result<SnapshotSlot, ApiError> {
        let slot = slots.open(Client::of(request)).await;
        slot.ok_or_else(|| {
            self.metrics.lists_refused.inc();
            refusal().into()
        })
    }

    /// A collection that this publisher serves. A caller that may not see all of them is told no
    /// name that it did not say.
    fn collection(&self, caller: &Caller, text: &str) -> Result<CollectionName, ApiError> {
        match self.policy.collections.find(text) {
            Ok(name) => Ok(name),
            Err(_unknown) if !caller.sees_all() => {
                Err(ProblemError::unknown_collection(text, []).into())
            }
            Err(unknown) => Err(unknown.into()),
        }
    }

    /// A document of a collection that this publisher serves; it need not exist.
    fn document_key(
        &self,
        caller: &Caller,
        (collection, id): &(String, String),
    ) -> Result<(CollectionName, DocumentId), ApiError> {
        Ok((
            self.collection(caller, collection)?,
            id.parse()
                .map_err(|error| ProblemError::bad_request("id", error))?,
        ))
    }

    /// The served collections for all of which the caller has one of the rights.
    fn visible(&self, caller: &Caller, rights: &[Right]) -> BTreeSet<CollectionName> {
        let served = self.policy.collections.all();
        let visible = served.iter().filter(|name| {
            let target = Target::Collection(name);
            rights.iter().any(|right| caller.may(*right, target))
        });
        visible.cloned().collect()
    }
}

/// The answer for a store that cannot be read: 500 with the name of what is damaged in it, else 503.
/// The failure is logged here, damage by the store.
fn store_failed(error: anyhow::Error) -> ApiError {
    if integrity::is_damage(&error) {
        tracing::debug!("a request was answered 500: {error:#}");
        return ApiError::damaged(error.root_cause().to_string());
    }
    static FAILURES: LogRate = LogRate::new();
    if !is_not_open(&error)
        && let Some(left_out) = FAILURES.due()
    {
        tracing::warn!(
            "the store could not be read, the request was answered 503: {error:#}{left_out}"
        );
    }
    ApiError::store_unavailable()
}
