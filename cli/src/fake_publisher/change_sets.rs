//! Change sets at a fake publisher: all changes or none.

use std::sync::Mutex;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, Json, ServiceConfig},
};
use contract::{
    Document, Problem,
    set::{ChangeSetRequest, ChangeSetWritten, RequestOperation, SetItemWritten},
};

use super::{FakePublisher, Store, missing_route};

pub(super) fn routes(config: &mut ServiceConfig) {
    config.route("/v1/changes", web::post().to(change));
}

impl FakePublisher {
    /// Is an older publisher, without change sets, from now on.
    pub(crate) fn refuses_change_sets(&self) {
        self.store.lock().expect("no panic").no_change_sets = true;
    }
}

/// Supports Create only, and refuses the id `refused`.
async fn change(
    request: HttpRequest,
    body: Json<ChangeSetRequest>,
    store: Data<Mutex<Store>>,
) -> HttpResponse {
    let mut store = store.lock().expect("no panic");
    if store.no_change_sets {
        return missing_route(&request);
    }
    let changes = body.into_inner().changes;
    assert!(
        changes
            .iter()
            .all(|change| change.op == RequestOperation::Create),
        "{changes:?}"
    );
    if let Some(index) = changes
        .iter()
        .position(|change| change.id.as_str() == "refused")
    {
        let mut problem = Problem::new(contract::ProblemKind::Schema, "on purpose").at("/name");
        problem.index = Some(index);
        return HttpResponse::UnprocessableEntity().json(problem);
    }
    let written: Vec<_> = changes
        .iter()
        .map(|change| {
            let key = (change.collection.to_string(), change.id.to_string());
            (key, change.config_data.clone().expect("a value"))
        })
        .collect();
    if let Some(refused) = store.dangling(written.iter().map(|(key, value)| (key, value))) {
        return refused;
    }
    let mut items = Vec::new();
    for change in changes {
        store.revision += 1;
        let config = change.config_data.expect("a value");
        let document = Document::new(change.id.clone(), store.revision, &config);
        store.documents.insert(
            (change.collection.to_string(), change.id.to_string()),
            document,
        );
        items.push(SetItemWritten {
            collection: change.collection,
            id: change.id,
            revision: store.revision,
        });
    }
    HttpResponse::Ok().json(ChangeSetWritten {
        applied: None,
        id: "s".to_owned(),
        items,
    })
}
