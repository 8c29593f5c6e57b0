//! Replicas of a stand-in: what they told it, and what it says of itself when it is asked as one.

use std::{collections::BTreeMap, sync::Mutex};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, Json, ServiceConfig},
};
use contract::{
    Epoch, Problem,
    fleet::{CheckIn, EpochDeclared, Fleet, Intake, Member, Report, RestoreEpoch, Settled},
    status::{CollectionStatus, State, Status},
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
    pub(crate) fn has_replicas(&self, replicas: Vec<Member>) {
        self.store.lock().expect("no panic").fleet = Some(Fleet { replicas });
    }

    /// What it was told about its history.
    pub(crate) fn restored(&self) -> Vec<RestoreEpoch> {
        self.store.lock().expect("no panic").restored.clone()
    }
}

/// A replica that checked in at this moment with everything up to `revision`.
pub(crate) fn member(instance: &str, url: Option<&str>, revision: u64) -> Member {
    let report = Report {
        epoch: Some(Epoch {
            lineage: 1,
            counter: 1,
        }),
        revision,
        known: revision,
        settled: Some(Settled {
            revision,
            digest: contract::Digest::default(),
        }),
        state: State::Current,
        reason: None,
        refusals: Vec::new(),
    };
    Member {
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
pub(crate) fn gone(instance: &str, url: Option<&str>) -> Member {
    let mut member = member(instance, url, 0);
    member.gone = true;
    member.check_in.intake = Some(Intake::Deaf);
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
async fn restore_epoch(asked: Json<RestoreEpoch>, store: Data<Mutex<Store>>) -> HttpResponse {
    let mut store = store.lock().expect("no panic");
    store.restored.push(asked.into_inner());
    if store.restored.len() > 1 {
        let problem = Problem::new(
            409,
            "not-now",
            "Not now",
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
    HttpResponse::Ok().json(Status {
        instance: "stand-in".to_owned(),
        state: State::Current,
        epoch: Some(head.epoch),
        confirmed_ms_ago: None,
        collections: vec![CollectionStatus {
            collection: head.collection,
            state: State::Current,
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
        healing: Default::default(),
        last_error: None,
        handlers: vec![],
    })
}
