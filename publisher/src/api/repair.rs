//! The repair of the store, which an operator asks for.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    CollectionName, Problem, ProblemKind, audit::AuditEvent, repair::RepairRequest, text::Escaped,
};
use service::http::{bodies::Body, caller::Caller};
use tracing::info;

use crate::api::{
    Api, audit, body::optional_request, error::ApiError, origin::Author, store_failed,
};

/// The default request only reports.
pub(super) async fn repair(
    api: web::Data<Api>,
    caller: Caller,
    http: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let author = Author::of_service(&caller, &http)?;
    let request: RepairRequest = optional_request(
        &body,
        r#""apply": true|false, "discard": true|false, "collections": ["<name>"]"#,
    )?;
    let collections = selected(&api, &caller, &request)?;
    if request.apply {
        info!(
            caller = %Escaped(&caller.identity().name), discard = request.discard,
            "a caller asked for a repair of the store"
        );
    }
    let event = AuditEvent::Repair {
        applied: request.apply,
        discard: request.discard,
        collections: collections.iter().cloned().collect(),
    };
    let applied = request.apply;
    if applied {
        // The record says that a repair was asked for: a crash leaves no repair without it.
        audit::before(&api, &author, event.clone()).await?;
    }
    match api.repairs.run(request, collections).await {
        Ok(Some(report)) => {
            if !applied {
                audit::done(&api, &author, event).await;
            }
            Ok(HttpResponse::Ok().json(report))
        }
        Ok(None) => {
            let detail = "Another repair is under way; nothing was done";
            Err(Problem::new(ProblemKind::Busy, detail).into())
        }
        Err(error) => Err(store_failed(error)),
    }
}

fn selected(
    api: &Api,
    caller: &Caller,
    request: &RepairRequest,
) -> Result<BTreeSet<CollectionName>, ApiError> {
    if request.collections.is_empty() {
        return Ok(BTreeSet::clone(&api.policy.collections.all()));
    }
    let names = request.collections.iter();
    names
        .map(|name| api.collection(caller, name.as_str()))
        .collect()
}
