//! Bearer tokens: made, listed and revoked. A token is in the answer that makes it, and nowhere else.
//!
//! Which tokens a caller may manage is decided by [`token::may_give`]: those whose grants it may give.

use actix_web::{HttpRequest, HttpResponse, http::header::CACHE_CONTROL, web};
use auth::SecretToken;
use chrono::{DateTime, TimeDelta, Utc};
use contract::{
    Problem, ProblemKind,
    access::{Grant, MissingRight, Right},
    audit::AuditEvent,
    objects,
    token::{self, CreatedToken, TokenId, TokenRecord, TokenRequest, Tokens},
};
use service::http::{bodies::Body, caller::Caller, problem::ProblemError};
use tracing::info;

use crate::{
    api::{Api, audit, error::ApiError, origin::Author, store_failed},
    store::tokens::TokenError,
};

pub(super) async fn create(
    api: web::Data<Api>,
    caller: Caller,
    http: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let author = Author::of_service(&caller, &http)?;
    let request: TokenRequest = objects::from_slice_located(&body).map_err(ApiError::bad_body)?;
    request
        .check()
        .map_err(|error| Problem::new(ProblemKind::BadBody, error.to_string()))?;
    for grant in &request.grants {
        check_given(&caller, grant)?;
    }
    let now = Utc::now();
    check_name(&api, &caller, &request, now).await?;
    let life = request.expires_in_seconds.map(|seconds| {
        // The check above keeps it in range.
        TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1_000))
    });
    let token = SecretToken::generate();
    let record = TokenRecord {
        id: token.hash().id(),
        name: request.name,
        hash: token.hash(),
        grants: request.grants,
        created_at: now,
        created_by: caller.identity().name.to_string(),
        expires_at: life.and_then(|life| now.checked_add_signed(life)),
        revoked_at: None,
    };
    let info = record.info();
    let event = AuditEvent::TokenCreated {
        id: info.id.to_string(),
        name: info.name.clone(),
        grants: info.grants.clone(),
        expires_at: info.expires_at,
    };
    let entry = audit::entry(&author, event);
    api.store.create_token(record, entry).await?;
    info!(
        token = %info.id, name = info.name, caller = info.created_by,
        "a token was created"
    );
    in_force(&api, &info.id).await;
    Ok(HttpResponse::Created()
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(CreatedToken {
            token: token.expose().to_owned(),
            info,
            enforced: !api.authenticator.is_open(),
        }))
}

pub(super) async fn list(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, ApiError> {
    let all = api.store.tokens().await.map_err(store_failed)?;
    let items = all
        .iter()
        .filter(|record| manages(&caller, record))
        .map(TokenRecord::info)
        .collect();
    Ok(HttpResponse::Ok().json(Tokens { items }))
}

pub(super) async fn revoke(
    api: web::Data<Api>,
    caller: Caller,
    http: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let author = Author::of_service(&caller, &http)?;
    let id: TokenId = id
        .parse()
        .map_err(|error| ProblemError::bad_request("id", error))?;
    let all = api.store.tokens().await.map_err(store_failed)?;
    let known = all.iter().find(|record| record.id == id);
    // A caller learns the same of a token that it may not manage and of one that does not exist.
    let is_managed = known.is_none_or(|record| manages(&caller, record));
    let event = AuditEvent::TokenRevoked {
        id: id.to_string(),
        name: known
            .map(|record| record.name.to_string())
            .unwrap_or_default(),
    };
    let revoked = is_managed
        && api
            .store
            .revoke_token(&id, Utc::now(), audit::entry(&author, event))
            .await
            .map_err(store_failed)?;
    if !revoked {
        let detail = format!(
            "There is no token {id} of the store that the caller may manage; a token of a file is revoked \
             by removing its line from the file"
        );
        return Err(Problem::new(ProblemKind::NoToken, detail)
            .field("id")
            .into());
    }
    info!(
        token = %id, caller = &*caller.identity().name,
        "a token was revoked"
    );
    in_force(&api, &id).await;
    Ok(HttpResponse::NoContent().finish())
}

/// Has the change in force at this publisher before the answer.
async fn in_force(api: &Api, id: &TokenId) {
    if let Err(error) = api.tokens.changed().await {
        tracing::warn!(
            token = %id,
            "a token was changed and the tokens could not be read again; the change comes into force \
             when they can: {error:#}"
        );
    }
}

fn manages(caller: &Caller, record: &TokenRecord) -> bool {
    let mut grants = record.grants.iter();
    grants.all(|grant| token::may_give(caller.identity(), grant))
}

/// # Errors
/// 403 `forbidden`, when the caller may not give the grant.
fn check_given(caller: &Caller, grant: &Grant) -> Result<(), ProblemError> {
    if token::may_give(caller.identity(), grant) {
        return Ok(());
    }
    let right = grant
        .role
        .rights()
        .iter()
        .find(|right| token::is_kept(**right));
    let missing = MissingRight {
        rights: vec![right.copied().unwrap_or(Right::ManageTokens)],
        target: "what the token would give".to_owned(),
    };
    Err(caller.refused(missing))
}

/// A caller is known by the name of its token alone, so no other token may act under it: neither under
/// one of the file, nor under one that has ended, whose changes are in the log, unless the caller may
/// manage that one. The store decides about its valid tokens.
///
/// # Errors
/// 409 `name-taken`.
async fn check_name(
    api: &Api,
    caller: &Caller,
    request: &TokenRequest,
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    let (name, grants) = (&request.name, &request.grants[..]);
    let all = api.store.tokens().await.map_err(store_failed)?;
    let is_of_others = |record: &TokenRecord| {
        record.keeps_from(name, grants)
            && (record.ends_at().is_none_or(|end| end > now) || !manages(caller, record))
    };
    if api.authenticator.file_keeps_from(name, grants) || all.iter().any(is_of_others) {
        return Err(TokenError::NameTaken.into());
    }
    Ok(())
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Full => Problem::new(ProblemKind::TokensFull, error.to_string()).into(),
            TokenError::NameTaken => Problem::new(ProblemKind::NameTaken, error.to_string())
                .field("name")
                .into(),
            TokenError::Store(error) => store_failed(error),
        }
    }
}
