//! The HTTP API: read the request, read the replica, answer. Names and answers are those of the
//! publisher's API wherever both have the route.
//!
//! [`collections`] and [`documents`] answer reads, `fresh` waits for their revision, `feed` answers the change feed, [`fleet`] replicas that
//! follow this one, [`health`] and [`metrics`] orchestrators and operators. The routes for a sidecar
//! or a publisher with `LOCAL` are in `replica::actix`. Handlers decide nothing about changes.

use std::{rc::Rc, sync::Arc};

use actix_web::{
    middleware::from_fn,
    web::{self, ServiceConfig},
};
use contract::{Head, access::routes as at, event, fleet::MAX_CHECK_IN, status::ReplicaStatus};
use projection::Projection;
use replica::{
    Replica, View,
    actix::{MAX_EVENT, Options},
};
use service::{
    http::{
        access::{Layer, SidecarToken, authenticate},
        bodies::{self, Bodies},
        framing::frame_answers,
        guard::{Guard, GuardSettings, guard},
        health as shared,
        methods::{Role, answer_methods, no_such_route},
        problem::ProblemError,
        rate::{BadCredentials, Rates},
        refusals::Refusals,
        routes::{self, ApiRoute},
        shared_text::SharedTexts,
        snapshot_slots::SnapshotSlots,
        stream_slots::StreamSlots,
        trace::trace,
    },
    runtime::drain::Drain,
};

use crate::{app::Readiness, settings::Settings};

pub mod collections;
pub mod documents;
mod error;
mod feed;
pub mod fleet;
mod fresh;
mod headers;
pub mod health;
pub mod metrics;
pub mod openapi;
mod stream;

/// What handlers share. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Api {
    replica: Replica,
    projection: Option<Projection>,
    dapr: Options,
    ready_when_stale: bool,
    streams: StreamSlots,
    /// Whether the process was asked to stop.
    drain: Drain,
    /// Limit for snapshots.
    snapshots: SnapshotSlots,
    /// Snapshots that are being read, by their heads.
    shared_snapshots: Arc<SharedTexts<Vec<Head>>>,
    /// Limit for lists.
    lists: SnapshotSlots,
    bodies: web::Data<Bodies>,
    /// How often one caller may send requests.
    rates: web::Data<Rates>,
    /// Credentials that were not valid, by address.
    bad_credentials: web::Data<BadCredentials>,
    guard: GuardSettings,
    refusals: web::Data<Refusals>,
    layer: Layer,
    role: web::Data<Role>,
    /// What the program that embeds the subscriber says.
    readiness: Option<Arc<dyn Readiness>>,
}

impl Api {
    /// The replica, and what handlers need of the settings.
    pub fn new(
        replica: Replica,
        projection: Option<Projection>,
        settings: &Settings,
        streams: StreamSlots,
        drain: Drain,
        readiness: Option<Arc<dyn Readiness>>,
    ) -> Self {
        Self {
            replica,
            projection,
            dapr: Options {
                pubsub_name: settings.pubsub_name.clone(),
                bulk: settings.bulk,
                declared: settings.declared,
                token: settings.app_api_token.clone(),
            },
            ready_when_stale: settings.ready_when_stale,
            streams,
            drain,
            snapshots: SnapshotSlots::new(settings.snapshot_slots),
            shared_snapshots: Arc::new(SharedTexts::new(settings.limits.limit_snapshot_bytes)),
            lists: SnapshotSlots::new(settings.limits.limit_lists),
            // The route of events answers a body that is too large or late like any other event.
            bodies: web::Data::new(Bodies::new(
                settings.limits.bodies(),
                &table(),
                &[event::ROUTE],
            )),
            // A subscriber takes no writes besides those of replicas and sidecars.
            rates: web::Data::new(Rates::new(settings.limits.rates(0), &table())),
            bad_credentials: web::Data::new(settings.limits.bad_credentials()),
            guard: settings.guard.clone(),
            refusals: web::Data::default(),
            layer: Layer {
                authenticator: settings.authenticator.clone(),
                // The replica asks for it, also in a service that embeds it.
                sidecar_token: match settings.app_api_token {
                    Some(_) => SidecarToken::AskedByRoutes,
                    None => SidecarToken::None,
                },
            },
            role: web::Data::new(role(settings)),
            readiness,
        }
    }

    /// Counts credentials that were not valid, also for another port of the service.
    pub fn bad_credentials(&self) -> BadCredentials {
        BadCredentials::clone(&self.bad_credentials)
    }

    /// The status of the replica, and of its projection.
    fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            projection: self.projection.as_ref().map(Projection::status),
            ..self.replica.status()
        }
    }

    /// The newest view.
    ///
    /// # Errors
    /// 503 `loading` before the first load.
    fn loaded(&self) -> Result<Arc<View>, ProblemError> {
        let view = self.replica.view();
        if view.loaded_as_served() {
            Ok(view)
        } else {
            Err(error::loading())
        }
    }

    /// The newest view, for a read of one collection: another one may be loading.
    ///
    /// # Errors
    /// 503 `loading` before the collection was loaded; for a name that is not followed, before all
    /// were that a publisher serves.
    fn loaded_of(&self, collection: &str) -> Result<Arc<View>, ProblemError> {
        let view = self.replica.view();
        let of_name = collection.parse().is_ok_and(|name| view.loaded_of(&name));
        if of_name || view.loaded_as_served() {
            Ok(view)
        } else {
            Err(error::loading())
        }
    }
}

/// What is said of a request that only a publisher answers; the URL is shown without a password.
fn role(settings: &Settings) -> Role {
    let publisher = settings.publishers.first();
    let publisher = publisher.map_or_else(String::new, |url| format!(" ({url})"));
    Role {
        service: "subscriber",
        elsewhere: Some(format!(
            "This is a subscriber, which answers reads only: ask its publisher{publisher}"
        )),
    }
}

/// Adds all routes, behind the guard and the authentication.
pub fn configure(config: &mut ServiceConfig, api: &Api) {
    let settings = Rc::new(Guard::new(api.guard.clone()));
    let layer = api.layer.clone();
    let scope = web::scope("").service(replica::actix::scope(&api.replica, &api.dapr));
    let routes = routes::add(scope, table())
        .wrap(from_fn(answer_methods))
        .wrap(from_fn(headers::complete_refusals))
        .wrap(from_fn(bodies::receive))
        .wrap(from_fn(move |request, next| {
            authenticate(layer.clone(), request, next)
        }))
        .wrap(from_fn(move |request, next| {
            guard(Rc::clone(&settings), request, next)
        }))
        .wrap(from_fn(trace))
        .wrap(from_fn(frame_answers));
    config
        .app_data(web::Data::new(api.clone()))
        .app_data(api.bodies.clone())
        .app_data(api.role.clone())
        .app_data(api.refusals.clone())
        .app_data(api.rates.clone())
        .app_data(api.bad_credentials.clone())
        .service(routes)
        .default_service(web::to(no_such_route));
}

/// All routes. actix-web tries paths in this order, so the most frequent one comes first.
fn table() -> Vec<ApiRoute> {
    use openapi::{dapr, reads, upkeep};
    vec![
        ApiRoute::described(at::SIDECAR_SUBSCRIPTIONS, dapr::subscribe),
        ApiRoute::described(at::SIDECAR_EVENTS, dapr::process).body_limit(MAX_EVENT),
        ApiRoute::new(at::GET_DOCUMENT, documents::get, reads::document),
        ApiRoute::new(at::GET_HEADS, collections::heads, reads::heads),
        ApiRoute::new(at::GET_HEAD, collections::head, reads::head),
        ApiRoute::new(at::GET_DOCUMENTS, collections::documents, reads::documents),
        ApiRoute::new(at::GET_CHANGES, feed::all, reads::feed),
        ApiRoute::new(
            at::GET_COLLECTION_CHANGES,
            feed::one,
            reads::feed_of_collection,
        ),
        ApiRoute::new(at::GET_SNAPSHOT, collections::snapshot, reads::snapshot),
        ApiRoute::new(at::CHECK_IN, fleet::check_in, upkeep::check_in).body_limit(MAX_CHECK_IN),
        ApiRoute::new(at::GET_STATUS, health::status, upkeep::status),
        ApiRoute::new(at::GET_VERSION, health::version, upkeep::version),
        ApiRoute::new(at::GET_IDENTITY, shared::identity, upkeep::identity),
        ApiRoute::new(at::GET_OPENAPI, health::openapi, upkeep::openapi),
        ApiRoute::new(at::GET_METRICS, metrics::metrics, upkeep::metrics),
        ApiRoute::new(at::GET_HEALTH, shared::healthz, upkeep::healthz),
        ApiRoute::new(at::GET_READINESS, health::readyz, upkeep::readyz),
    ]
}
