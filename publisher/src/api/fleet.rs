//! Replicas: their check-ins, the list of them, and the new epoch that an operator declares after a
//! restore of the store.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use contract::{
    access::{Right, Target},
    audit::{AuditEvent, AuditedOperation},
    fleet::{MAX_CHECK_IN, REPLICA_PAGE},
    sidecar::TOKEN_HEADER,
    text::Escaped,
};
use serde::Deserialize;
use service::http::{access::session, bodies::Body, caller::Caller, source::is_forwarded};
use tracing::info;

use crate::{
    api::{Api, audit, body::optional_request, error::ApiError, origin::Author, store_failed},
    fleet::FleetError,
    transport::direct::trust::Peer,
};

/// Longest body of these routes, in bytes.
pub(super) const LIMIT: usize = MAX_CHECK_IN;

pub(super) async fn check_in(
    api: web::Data<Api>,
    caller: Caller,
    instance: web::Path<String>,
    request: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    // Nothing of a request is kept where no credential is asked for.
    let session = session(&api.authenticator, &request);
    let answer = api
        .fleet
        .check_in(&instance, &body, peer(&request), caller.identity(), session)
        .await;
    match answer {
        Ok(answer) => Ok(HttpResponse::Ok().json(answer)),
        Err(FleetError::Forbidden(missing)) => Err(caller.refused(missing).into()),
        Err(error) => Err(error.into()),
    }
}

fn peer(request: &HttpRequest) -> Peer<'_> {
    let headers = request.headers();
    let forwarded = is_forwarded(headers);
    Peer {
        address: request
            .peer_addr()
            .filter(|_peer| !forwarded)
            .map(|peer| peer.ip()),
        token: headers.get(TOKEN_HEADER).map(header::HeaderValue::as_bytes),
    }
}

/// Query of the list of replicas.
#[derive(Debug, Deserialize)]
pub(super) struct PageQuery {
    /// The name that the page before ended with.
    after: Option<String>,
    /// Most replicas of the page; a number above the maximum counts as the maximum.
    limit: Option<usize>,
}

pub(super) async fn list(
    api: web::Data<Api>,
    caller: Caller,
    query: web::Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = query.limit.unwrap_or(REPLICA_PAGE).clamp(1, REPLICA_PAGE);
    let page = api.fleet.page(query.after.as_deref(), limit).await;
    let mut page = page.map_err(store_failed)?;
    if query.after.is_none() {
        page.backlog = Some(api.store.backlog().await.map_err(store_failed)?);
    }
    for replica in &mut page.replicas {
        replica.hide_values(|name| caller.may(Right::Read, Target::Collection(name)));
    }
    Ok(HttpResponse::Ok().json(page))
}

pub(super) async fn declare(
    api: web::Data<Api>,
    caller: Caller,
    http: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let author = Author::of_service(&caller, &http)?;
    let request = optional_request(
        &body,
        r#""adopt": "<lineage>", "counter": <number>, "renew": true|false"#,
    )?;
    audit::requested(&api, &author, AuditedOperation::DeclareEpoch, None).await?;
    let declared = api.fleet.declare(request).await?;
    info!(
        epoch = %declared.epoch, caller = %Escaped(&caller.identity().name),
        "a caller declared a new epoch"
    );
    let epoch = declared.epoch;
    audit::done(&api, &author, AuditEvent::EpochDeclared { epoch }).await;
    Ok(HttpResponse::Ok().json(declared))
}
