//! The named snapshots of a fake publisher, without their states.

use std::sync::Mutex;

use actix_web::{
    HttpResponse,
    web::{self, Data, Path, ServiceConfig},
};
use chrono::Utc;
use contract::{
    Context, Problem, ProblemKind,
    history::SnapshotName,
    named_snapshot::{NamedSnapshot, NamedSnapshots},
};

type Snapshots = Data<Mutex<Vec<NamedSnapshot>>>;

pub(super) fn routes(config: &mut ServiceConfig) {
    let snapshots = Snapshots::default();
    config
        .app_data(snapshots)
        .route("/v1/snapshots", web::get().to(list))
        .route("/v1/snapshots/{name}", web::put().to(create))
        .route("/v1/snapshots/{name}", web::delete().to(delete));
}

async fn list(snapshots: Snapshots) -> HttpResponse {
    let items = snapshots.lock().expect("no panic").clone();
    HttpResponse::Ok().json(NamedSnapshots { items })
}

async fn create(name: Path<SnapshotName>, snapshots: Snapshots) -> HttpResponse {
    let mut snapshots = snapshots.lock().expect("no panic");
    if snapshots.iter().any(|snapshot| snapshot.name == *name) {
        return HttpResponse::Conflict().json(Problem::new(ProblemKind::Exists, "it exists"));
    }
    let created = NamedSnapshot {
        name: name.into_inner(),
        time: Utc::now(),
        context: Context::default(),
        collections: Vec::new(),
    };
    snapshots.push(created.clone());
    HttpResponse::Created().json(created)
}

async fn delete(name: Path<SnapshotName>, snapshots: Snapshots) -> HttpResponse {
    let mut snapshots = snapshots.lock().expect("no panic");
    let before = snapshots.len();
    snapshots.retain(|snapshot| snapshot.name != *name);
    if snapshots.len() == before {
        return HttpResponse::NotFound().json(Problem::new(ProblemKind::NoData, "there is none"));
    }
    HttpResponse::NoContent().finish()
}
