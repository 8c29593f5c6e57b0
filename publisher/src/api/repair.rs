//! The repair of the store, which an operator asks for.

use std::collections::BTreeSet;

use actix_web::{HttpResponse, web};
use contract::{CollectionName, Problem, ProblemKind, repair::RepairRequest};
use service::http::bodies::Body;

use crate::api::{Api, body::optional_request, error::ApiError, store_failed};

/// The default request only reports.
pub(super) async fn repair(
    api: web::Data<Api>,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let request: RepairRequest = optional_request(
        &body,
        r#""apply": true|false, "discard": true|false, "collections": ["<name>"]"#,
    )?;
    let collections = selected(&api, &request)?;
    match api.repairs.run(request, collections).await {
        Ok(Some(report)) => Ok(HttpResponse::Ok().json(report)),
        Ok(None) => {
            let detail = "Another repair is under way; nothing was done";
            Err(Problem::new(ProblemKind::Busy, detail).into())
        }
        Err(error) => Err(store_failed(error)),
    }
}

fn selected(api: &Api, request: &RepairRequest) -> Result<BTreeSet<CollectionName>, ApiError> {
    if request.collections.is_empty() {
        return Ok(BTreeSet::clone(&api.policy.collections.all()));
    }
    let names = request.collections.iter();
    names.map(|name| api.collection(name.as_str())).collect()
}
