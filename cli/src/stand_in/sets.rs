//! Change sets at a stand-in: all members or none.

use std::sync::Mutex;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, Json, ServiceConfig},
};
use contract::{
    Document, Problem,
    set::{ChangeSetRequest, ChangeSetWritten, RequestOperation, SetItemWritten},
};

use super::{StandIn, Store, lacks};

pub(super) fn routes(config: &mut ServiceConfig) {
    config.route("/v1/changes", web::post().to(change));
}

impl StandIn {
    /// Is too old for change sets from now on.
    pub(crate) fn takes_no_sets(&self) {
        self.store.lock().expect("no panic").no_sets = true;
    }
}

/// Knows how to create; refuses an id that says so.
async fn change(
    request: HttpRequest,
    asked: Json<ChangeSetRequest>,
    store: Data<Mutex<Store>>,
) -> HttpResponse {
    let mut store = store.lock().expect("no panic");
    if store.no_sets {
        return lacks(&request);
    }
    let changes = asked.into_inner().changes;
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
        id: "s".to_owned(),
        items,
    })
}
