//! The replicas of a fake publisher, and its own status when it is asked as a replica.

use std::{collections::BTreeMap, sync::Mutex};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, Json, ServiceConfig},
};
use contract::{
    Epoch, Problem, ProblemKind,
    fleet::{
        CheckIn, CollectionReport, EpochDeclared, IntakeFault, ReplicaList, ReplicaRecord,
        RestoreEpochRequest, SettledPoint,
    },
    status::{CollectionStatus, ReplicaState, ReplicaStatus},
};

use super::{FakePublisher, Store, collection, missing_route};

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .route("/readyz", web::get().to(readiness))
        .route("/v1/replicas", web::get().to(replicas))
        .route("/v1/epoch", web::post().to(restore_epoch))
        .route("/v1/status", web::get().to(status));
}

impl FakePublisher {
    /// Lists these replicas from now on.
    pub(crate) fn has_replicas(&self, replicas: Vec<ReplicaRecord>) {
        self.store.lock().expect("no panic").replicas = Some(ReplicaList {
            replicas,
            backlog: None,
            next: None,
        });
    }

    /// Cannot do its work from now on.
    pub(crate) fn is_not_ready(&self, reason: &str) {
        self.store.lock().expect("no panic").not_ready = Some(reason.to_owned());
    }

    /// The requests for a new epoch.
    pub(crate) fn epoch_requests(&self) -> Vec<RestoreEpochRequest> {
        self.store.lock().expect("no panic").epoch_requests.clone()
    }
}

async fn readiness(store: Data<Mutex<Store>>) -> HttpResponse {
    match &store.lock().expect("no panic").not_ready {
        None => HttpResponse::NoContent().finish(),
        Some(reason) => HttpResponse::ServiceUnavailable()
            .json(Problem::new(ProblemKind::StoreUnavailable, reason)),
    }
}

/// A replica that checked in just now with everything up to `revision`.
pub(crate) fn record(instance: &str, url: Option<&str>, revision: u64) -> ReplicaRecord {
    let report = CollectionReport {
        epoch: Some(Epoch {
            lineage: 1,
            counter: 1,
        }),
        revision,
        known: revision,
        proof: None,
        claimed: None,
        settled: Some(SettledPoint {
            revision,
            digest: contract::Digest::default(),
        }),
        state: ReplicaState::Current,
        reason: None,
        refusals: Vec::new(),
        refused_values: 0,
    };
    ReplicaRecord {
        check_in: CheckIn {
            instance: instance.to_owned(),
            boot_id: "b".to_owned(),
            base_url: url.map(str::to_owned),
            interval_ms: 10_000,
            intake: None,
            collections: BTreeMap::from([(collection(), report)]),
            topics_not_subscribed: Default::default(),
            handlers: Vec::new(),
            failing_handlers: 0,
            events_behind: 0,
            last_error: None,
            transport: None,
            version: None,
            protocol: None,
            apply_delays: None,
        },
        seen: std::time::SystemTime::now().into(),
        gone: false,
        undelivered: None,
    }
}

/// A replica that has been silent for too long, and received no events before.
pub(crate) fn gone(instance: &str, url: Option<&str>) -> ReplicaRecord {
    let mut record = record(instance, url, 0);
    record.gone = true;
    record.check_in.intake = Some(IntakeFault::NotReceiving);
    record
}

/// One replica a page, so that every command follows pages.
async fn replicas(
    request: HttpRequest,
    query: web::Query<BTreeMap<String, String>>,
    store: Data<Mutex<Store>>,
) -> HttpResponse {
    let Some(list) = store.lock().expect("no panic").replicas.clone() else {
        return missing_route(&request);
    };
    let name = |record: &ReplicaRecord| record.check_in.instance.clone();
    let mut rest = list.replicas;
    if let Some(after) = query.get("after") {
        let last = rest.iter().position(|record| name(record) == *after);
        rest.drain(..=last.expect("a name of the page before"));
    }
    let is_last = rest.len() <= 1;
    rest.truncate(1);
    let next = rest.first().filter(|_one| !is_last).map(name);
    HttpResponse::Ok().json(ReplicaList {
        replicas: rest,
        backlog: None,
        next,
    })
}

/// Refuses the second request.
async fn restore_epoch(
    request: Json<RestoreEpochRequest>,
    store: Data<Mutex<Store>>,
) -> HttpResponse {
    let mut store = store.lock().expect("no panic");
    store.epoch_requests.push(request.into_inner());
    if store.epoch_requests.len() > 1 {
        let problem = Problem::new(
            contract::ProblemKind::NotDeclaredNow,
            "documents and heads do not agree yet",
        );
        return HttpResponse::Conflict().json(problem);
    }
    HttpResponse::Ok().json(EpochDeclared {
        epoch: Epoch {
            lineage: 1,
            counter: 2,
        },
    })
}

async fn status(store: Data<Mutex<Store>>) -> HttpResponse {
    let head = store.lock().expect("no panic").head();
    HttpResponse::Ok().json(ReplicaStatus {
        projection: None,
        instance: "fake-replica".to_owned(),
        state: ReplicaState::Current,
        epoch: Some(head.epoch),
        confirmed_ms_ago: None,
        collections: vec![CollectionStatus {
            collection: head.collection,
            state: ReplicaState::Current,
            reason: None,
            revision: head.revision,
            known: head.revision,
            staged: 0,
            count: head.count,
            digest: head.digest,
            refusals: vec![],
            refused_values: 0,
        }],
        events: Default::default(),
        drops: vec![],
        boot_id: String::new(),
        base_url: None,
        version: None,
        protocol: None,
        transport: None,
        event_keys: Vec::new(),
        intake: None,
        events_behind: 0,
        topics_not_subscribed: Default::default(),
        sync: Default::default(),
        last_error: None,
        handlers: vec![],
    })
}
