//! The audit log: its pages, and the newest record of each chain. And what handlers add to it.

use actix_web::{HttpMessage, HttpRequest, HttpResponse, body::BoxBody, dev::ServiceResponse, web};
use contract::{
    access::Identity,
    audit::{AuditEvent, AuditedOperation, Entry, PAGE, Tips},
};
use serde::Deserialize;
use service::http::{
    caller::Caller,
    methods::known_method,
    problem::{Answered, ProblemError},
    routes::pattern,
    source,
};

use crate::{
    api::{Api, error::ApiError, origin::Author, past::instant, store_failed},
    audit::UNKNOWN,
    decide::Origin,
    store::audit::AuditQuery,
};

/// The parameters of a page, as texts, so that a mistake names its parameter.
#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
    after: Option<String>,
    chain: Option<String>,
    from: Option<String>,
    to: Option<String>,
    actor: Option<String>,
    kind: Option<String>,
    limit: Option<String>,
}

pub(super) async fn list(
    api: web::Data<Api>,
    parameters: web::Query<Parameters>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let query = parameters.into_inner().query()?;
    let _slot = api.history_slot(&request).await?;
    let page = api.store.audit_page(&query).await;
    Ok(HttpResponse::Ok().json(page.map_err(store_failed)?))
}

pub(super) async fn tips(api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    let tips = api.store.audit_tips().await.map_err(store_failed)?;
    Ok(HttpResponse::Ok().json(Tips {
        enabled: api.audit.is_on(),
        tips,
        one_chain: api.store.has_one_audit_chain(),
        retention: api.audit.retention(),
    }))
}

impl Parameters {
    fn query(self) -> Result<AuditQuery, ApiError> {
        let time =
            |name: &str, text: Option<&str>| text.map(|text| instant(name, text)).transpose();
        Ok(AuditQuery {
            after: parsed("after", self.after.as_deref())?,
            chain: parsed("chain", self.chain.as_deref())?,
            from: time("from", self.from.as_deref())?,
            to: time("to", self.to.as_deref())?,
            limit: parsed("limit", self.limit.as_deref())?
                .unwrap_or(100)
                .clamp(1, PAGE),
            actor: self.actor,
            kind: self.kind,
        })
    }
}

fn parsed<T: std::str::FromStr>(name: &str, text: Option<&str>) -> Result<Option<T>, ProblemError>
where
    T::Err: std::fmt::Display,
{
    text.map(str::parse)
        .transpose()
        .map_err(|error| ProblemError::bad_request(name, error))
}

/// Where the writes of a caller come from.
pub(super) fn origin_of(caller: &Caller) -> Origin {
    Origin {
        actor: caller.identity().name.clone(),
        is_rollback: false,
    }
}

/// Records what the author of a request did, before it is answered. It happened, so a store that takes no
/// record now gets it later.
pub(super) async fn done(api: &Api, author: &Author, event: AuditEvent) {
    if !api.audit.is_on() {
        return;
    }
    let entry = entry(author, event);
    if api.audit.record_now(entry.clone()).await.is_err() {
        api.audit.record(entry);
    }
}

/// Records what the author of a request is about to do or to be given. It did not happen yet, so without
/// a record it does not.
///
/// # Errors
/// 503 when the store takes no record now.
pub(super) async fn before(api: &Api, author: &Author, event: AuditEvent) -> Result<(), ApiError> {
    if !api.audit.is_on() {
        return Ok(());
    }
    let recorded = api.audit.record_now(entry(author, event)).await;
    recorded.map_err(store_failed)
}

/// As [`before`], of an operation whose own record follows when it is done.
///
/// # Errors
/// As [`before`].
pub(super) async fn requested(
    api: &Api,
    author: &Author,
    operation: AuditedOperation,
    target: Option<String>,
) -> Result<(), ApiError> {
    before(api, author, AuditEvent::Requested { operation, target }).await
}

/// What an author does. The user is the one that an [`Author`] may name.
pub(super) fn entry(author: &Author, event: AuditEvent) -> Entry {
    let Author {
        caller, context, ..
    } = author;
    let actor = &*caller.identity().name;
    let user = context.user_id().filter(|user| *user != actor);
    Entry {
        user: user.map(str::to_owned),
        correlation_id: context.correlation_id().map(str::to_owned),
        ..Entry::done(chrono::Utc::now(), actor, event)
    }
}

/// Records a request that was refused for what its caller is or may do.
pub(super) fn record_refusal(answer: &ServiceResponse<BoxBody>) {
    let status = answer.status().as_u16();
    if ![401, 403, 429].contains(&status) {
        return;
    }
    let request = answer.request();
    if let Some(api) = request.app_data::<web::Data<Api>>() {
        let answered = answer.response().extensions().get::<Answered>().copied();
        let reason = answered.map_or("refused", |answered| answered.kind.as_str());
        let right = answered.and_then(|answered| answered.right);
        let pattern = pattern(request);
        let pattern = pattern.as_deref().unwrap_or_default();
        let method = known_method(request.method()).unwrap_or("other");
        let target = format!("{method} {pattern}");
        let identity = request.extensions().get::<Identity>().cloned();
        let actor = match identity {
            Some(identity) => identity.name,
            // From where credentials are tried is all that is known.
            None => format!("{UNKNOWN} {}", source::address(request)).into(),
        };
        api.audit.refused(&actor, reason, right, &target);
    }
}
