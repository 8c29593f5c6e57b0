//! Dead letters: the list, one of them, the report of a replica, sending again and discarding.

use actix_web::{HttpRequest, HttpResponse, web};
use contract::{
    JsonError, Problem, ProblemKind,
    access::{Right, Target},
    audit::{AuditEvent, AuditedOperation},
    dead_letter::{
        DeadLetter, DeadLetterAccepted, DeadLetterId, DeadLetterReport, DeadLettersDiscarded,
        Original, PAGE, ReplayRequest,
    },
    objects,
    text::Escaped,
};
use serde::Deserialize;
use service::http::{bodies::Body, caller::Caller, problem::ProblemError};
use tracing::info;

use crate::{
    api::{Api, audit, body::optional_request, error::ApiError, origin::Author, store_failed},
    dead_letters::{DeadLetterError, LetterCursor, LetterFilter, Reported},
};

/// Query of the list, and of the request that discards letters. Everything is text, so that a mistake
/// names its parameter.
#[derive(Debug, Deserialize)]
pub(super) struct LetterQuery {
    collection: Option<String>,
    reason: Option<String>,
    replayed: Option<String>,
    /// The list only.
    before: Option<String>,
    /// The list only: most letters of the page.
    limit: Option<usize>,
    /// The request that discards only: `true` stands for a filter.
    all: Option<String>,
}

impl LetterQuery {
    /// A collection need not be served: letters of a collection that was served once are kept.
    fn filter(&self) -> Result<LetterFilter, ProblemError> {
        Ok(LetterFilter {
            collection: parsed("collection", self.collection.as_deref())?,
            reason: parsed("reason", self.reason.as_deref())?,
            replayed: parsed("replayed", self.replayed.as_deref())?,
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

/// A letter without what quotes the value of its event, unless the caller may read that.
fn visible(caller: &Caller, mut letter: DeadLetter) -> DeadLetter {
    let event = &letter.event;
    let target = match (&event.collection, &event.document) {
        (Some(collection), Some(id)) => Target::Document(collection, id),
        (Some(collection), None) => Target::Collection(collection),
        // It may quote anything.
        (None, _) => Target::Service,
    };
    if !caller.may(Right::Read, target) {
        letter.detail = None;
        letter.original = Original::default();
    }
    letter
}

pub(super) async fn list(
    api: web::Data<Api>,
    caller: Caller,
    query: web::Query<LetterQuery>,
) -> Result<HttpResponse, ApiError> {
    let before = query.before.as_deref().map(|text| {
        let cursor = LetterCursor::parse(text);
        cursor.ok_or_else(|| ProblemError::bad_request("before", "expected `next` of a page"))
    });
    let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let page = api
        .dead_letters
        .page(&query.filter()?, before.transpose()?, limit)
        .await;
    let mut page = page?;
    let items = page.items.into_iter();
    page.items = items.map(|letter| visible(&caller, letter)).collect();
    Ok(HttpResponse::Ok().json(page))
}

pub(super) async fn get(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let letter = api.dead_letters.get(letter_id(&id)?).await;
    Ok(HttpResponse::Ok().json(visible(&caller, letter?)))
}

pub(super) async fn report(
    api: web::Data<Api>,
    caller: Caller,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let report: DeadLetterReport =
        objects::from_slice_located(&body).map_err(|JsonError { pointer, reason }| {
            let detail = format!("The body is not the report of a dropped event: {reason}");
            Problem::new(ProblemKind::BadBody, detail).at(pointer)
        })?;
    if let Some(revision) = report.event.revision
        && i64::try_from(revision).is_err()
    {
        let detail = format!("{revision} is larger than the largest revision of a store");
        let problem = Problem::new(ProblemKind::BadBody, detail).at("/event/revision");
        return Err(problem.into());
    }
    let reported = Reported::read(report)?;
    // An event that names no collection can come from any channel of the replica.
    let target = reported
        .collection()
        .map_or(Target::Selection, Target::Collection);
    caller.require(Right::Follow, target)?;
    let id = api.dead_letters.add_reported(reported).await?;
    Ok(HttpResponse::Ok().json(DeadLetterAccepted { id }))
}

pub(super) async fn discard(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let author = Author::of_service(&caller, &request)?;
    let id = letter_id(&id)?;
    let target = Some(id.to_string());
    audit::requested(&api, &author, AuditedOperation::DiscardDeadLetters, target).await?;
    api.dead_letters.discard(id).await?;
    info!(
        dead_letter = %id, caller = %Escaped(&caller.identity().name),
        "a dead letter was discarded"
    );
    let discarded = Some(id.to_string());
    let event = AuditEvent::DeadLettersDiscarded {
        id: discarded,
        count: 1,
    };
    audit::done(&api, &author, event).await;
    Ok(HttpResponse::Ok().json(DeadLetterAccepted { id }))
}

pub(super) async fn discard_all(
    api: web::Data<Api>,
    caller: Caller,
    query: web::Query<LetterQuery>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let author = Author::of_service(&caller, &request)?;
    let filter = query.filter()?;
    let all = parsed("all", query.all.as_deref())?.unwrap_or(false);
    let is_filtered =
        filter.collection.is_some() || filter.reason.is_some() || filter.replayed.is_some();
    if !is_filtered && !all {
        let detail = "Nothing was discarded: give a filter, or all=true for all dead letters";
        return Err(ProblemError::bad_request("all", detail).into());
    }
    audit::requested(&api, &author, AuditedOperation::DiscardDeadLetters, None).await?;
    let discarded = api.dead_letters.discard_all(&filter).await;
    let discarded = discarded?;
    info!(
        discarded, caller = %Escaped(&caller.identity().name),
        "dead letters were discarded"
    );
    let event = AuditEvent::DeadLettersDiscarded {
        id: None,
        count: discarded,
    };
    audit::done(&api, &author, event).await;
    Ok(HttpResponse::Ok().json(DeadLettersDiscarded { discarded }))
}

pub(super) async fn replay(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    http: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let author = Author::of_service(&caller, &http)?;
    let request: ReplayRequest = optional_request(&body, r#""dryRun": true|false"#)?;
    let id = letter_id(&id)?;
    if !request.dry_run {
        let target = Some(id.to_string());
        audit::requested(&api, &author, AuditedOperation::ReplayDeadLetter, target).await?;
    }
    let mut replayed = api.dead_letters.replay(id, request).await?;
    if !request.dry_run {
        info!(
            dead_letter = %id, caller = %Escaped(&caller.identity().name),
            "the event of a dead letter was sent again"
        );
        let id = id.to_string();
        audit::done(&api, &author, AuditEvent::DeadLetterReplayed { id }).await;
    }
    replayed.letter = visible(&caller, replayed.letter);
    Ok(HttpResponse::Ok().json(replayed))
}

fn letter_id(text: &str) -> Result<DeadLetterId, ProblemError> {
    text.parse()
        .map_err(|error| ProblemError::bad_request("id", error))
}

/// The answer to what is refused of dead letters; the detail is the text of the error. A failure of
/// the store is logged.
impl From<DeadLetterError> for ApiError {
    fn from(error: DeadLetterError) -> Self {
        let kind = match &error {
            DeadLetterError::Busy | DeadLetterError::NotSent(_) | DeadLetterError::NotTaken(_) => {
                ProblemKind::Busy
            }
            DeadLetterError::Unknown(_) => ProblemKind::NoDeadLetter,
            DeadLetterError::InvalidReport { .. } => ProblemKind::BadBody,
            DeadLetterError::NotReplayable(_) => ProblemKind::NotReplayable,
            DeadLetterError::Store(_) => ProblemKind::StoreUnavailable,
        };
        let problem = Problem::new(kind, error.to_string());
        match error {
            DeadLetterError::Store(error) => store_failed(error),
            DeadLetterError::InvalidReport { pointer, .. } => problem.at(pointer).into(),
            _ => problem.into(),
        }
    }
}
