//! Replicas of a stand-in: what they told it, and what it says of itself when it is asked as one.

use std::{collections::BTreeMap, sync::Mutex};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, Json, ServiceConfig},
};
use contract::{
    Epoch, Problem,
    fleet::{
        CheckIn, CollectionReport, EpochDeclared, IntakeFault, ReplicaList, ReplicaRecord,
        RestoreEpochRequest, SettledPoint,
    },
    status::{CollectionStatus, ReplicaState, ReplicaStatus},
};

use super::{StandIn, Store, collection, lacks};

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .route("/v1/replicas", web::get().to(replicas))
        .route("/v1/epoch", web::post().to(restore_epoch))
        .route("/v1/status", web::get().to(status));
}

impl StandIn {
    /// Tells of these replicas from now on.
    pub(crate) fn has_replicas(&self, replicas: Vec<ReplicaRecord>) {
        self.store.lock().expect("no panic").fleet = Some(ReplicaList { replicas });
    }

    /// What it was told about its history.
    pub(crate) fn restored(&self) -> Vec<RestoreEpochRequest> {
        self.store.lock().expect("no panic").restored.clone()
    }
}

/// A replica that checked in at this moment with everything up to `revision`.
pub(crate) fn member(instance: &str, url: Option<&str>, revision: u64) -> ReplicaRecord {
    let report = CollectionReport {
        epoch: Some(Epoch {
            lineage: 1,
            counter: 1,
        }),
        revision,
        known: revision,
        settled: Some(SettledPoint {
            revision,
            digest: contract::Digest::default(),
        }),
        state: ReplicaState::Current,
        reason: None,
        refusals: Vec::new(),
    };
    ReplicaRecord {
        check_in: CheckIn {
            instance: instance.to_owned(),
            boot_id: "b".to_owned(),
            base_url: url.map(str::to_owned),
            interval_ms: 10_000,
            intake: None,
            collections: BTreeMap::from([(collection(), report)]),
            handlers: Vec::new(),
        },
        seen: std::time::SystemTime::now().into(),
        gone: false,
    }
}

/// One that has been silent for too long, and was deaf before.
pub(crate) fn gone(instance: &str, url: Option<&str>) -> ReplicaRecord {
    let mut member = member(instance, url, 0);
    member.gone = true;
    member.check_in.intake = Some(IntakeFault::NotReceiving);
    member
}

async fn replicas(request: HttpRequest, store: Data<Mutex<Store>>) -> HttpResponse {
    let fleet = store.lock().expect("no panic").fleet.clone();
    match fleet {
        Some(fleet) => HttpResponse::Ok().json(fleet),
        None => lacks(&request),
    }
}

/// The second time is too soon.
async fn restore_epoch(
    asked: Json<RestoreEpochRequest>,
    store: Data<Mutex<Store>>,
) -> HttpResponse {
    let mut store = store.lock().expect("no panic");
    store.restored.push(asked.into_inner());
    if store.restored.len() > 1 {
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
        instance: "stand-in".to_owned(),
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
        }],
        events: Default::default(),
        drops: vec![],
        boot_id: String::new(),
        intake: None,
        sync: Default::default(),
        last_error: None,
        handlers: vec![],
    })
}
