//! Named snapshots: made, listed, read and deleted.

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::Utc;
use contract::{
    Context, Problem, ProblemKind,
    access::{Right, Target},
    audit::{AuditEvent, AuditedOperation},
    history::SnapshotName,
    named_snapshot::{NamedSnapshot, NamedSnapshots},
};
use service::http::{caller::Caller, problem::ProblemError};
use tracing::info;

use crate::{
    api::{Api, audit, error::ApiError, origin::Author, store_failed},
    store::snapshots::SnapshotError,
};

pub(super) async fn create(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let name = parsed(&name)?;
    let author = Author::of_service(&caller, &request)?;
    let context = &author.context;
    let target = Some(name.to_string());
    audit::requested(&api, &author, AuditedOperation::CreateSnapshot, target).await?;
    let event = AuditEvent::SnapshotCreated { name: name.clone() };
    let made = api
        .store
        .create_snapshot(name, context.clone(), Utc::now())
        .await;
    match made {
        Ok(snapshot) => {
            audit::done(&api, &author, event).await;
            Ok(HttpResponse::Created().json(snapshot))
        }
        Err(SnapshotError::Exists(name)) => {
            let existing = api.store.snapshot(&name).await.map_err(store_failed)?;
            match existing.filter(|existing| is_repetition(existing, context)) {
                Some(existing) => Ok(HttpResponse::Ok().json(existing)),
                None => Err(SnapshotError::Exists(name).into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a request is the one that made a snapshot, sent again: it has the same correlation id. A
/// client may repeat a PUT (RFC 9110 section 9.2.2).
fn is_repetition(existing: &NamedSnapshot, context: &Context) -> bool {
    let id = context.correlation_id();
    id.is_some() && id == existing.context.correlation_id()
}

pub(super) async fn list(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, ApiError> {
    let items = api.store.snapshots().await.map_err(store_failed)?;
    let items = items.into_iter();
    let items = items
        .filter_map(|snapshot| visible(&caller, snapshot))
        .collect();
    Ok(HttpResponse::Ok().json(NamedSnapshots { items }))
}

pub(super) async fn get(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let name = parsed(&name)?;
    let snapshot = api.store.snapshot(&name).await.map_err(store_failed)?;
    let snapshot = snapshot.and_then(|snapshot| visible(&caller, snapshot));
    let snapshot = snapshot.ok_or_else(|| no_snapshot(&name))?;
    Ok(HttpResponse::Ok().json(snapshot))
}

pub(super) async fn delete(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let name = parsed(&name)?;
    let author = Author::of_service(&caller, &request)?;
    let context = &author.context;
    let target = Some(name.to_string());
    audit::requested(&api, &author, AuditedOperation::DeleteSnapshot, target).await?;
    if api
        .store
        .delete_snapshot(&name)
        .await
        .map_err(store_failed)?
    {
        // No record has it: the log says which user removed what retention may now remove.
        info!(
            snapshot = %name, user = context.user_id(), via = context.via(), reason = context.reason(),
            "a named snapshot was deleted"
        );
        audit::done(&api, &author, AuditEvent::SnapshotDeleted { name }).await;
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(no_snapshot(&name))
    }
}

/// A snapshot with the collections that the caller may see; `None` when it has others only.
fn visible(caller: &Caller, mut snapshot: NamedSnapshot) -> Option<NamedSnapshot> {
    let had_any = !snapshot.collections.is_empty();
    snapshot.collections.retain(|of| {
        let target = Target::Collection(&of.collection);
        caller.may(Right::Read, target) || caller.may(Right::Observe, target)
    });
    (!had_any || !snapshot.collections.is_empty()).then_some(snapshot)
}

fn parsed(name: &str) -> Result<SnapshotName, ProblemError> {
    name.parse()
        .map_err(|error| ProblemError::bad_request("name", error))
}

fn no_snapshot(name: &SnapshotName) -> ApiError {
    let detail = format!("There is no snapshot {name}");
    Problem::new(ProblemKind::NoSnapshot, detail)
        .field("name")
        .into()
}

impl From<SnapshotError> for ApiError {
    fn from(error: SnapshotError) -> Self {
        let detail = error.to_string();
        match error {
            SnapshotError::Exists(_) => Problem::new(ProblemKind::SnapshotExists, detail)
                .field("name")
                .into(),
            SnapshotError::Full => Problem::new(ProblemKind::SnapshotsFull, detail).into(),
            SnapshotError::Past(error) => error.into(),
        }
    }
}
