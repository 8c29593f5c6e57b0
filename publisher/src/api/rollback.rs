//! Rollbacks of a document, of a collection and of a change set.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use contract::{
    Change, CollectionName, Expected, JsonError, Problem, ProblemKind,
    access::{MissingRight, Right, Target},
    context::MAX_LEN,
    history::Point,
    objects,
    problem::Current,
    rollback::{Rollback, RollbackExpected, RollbackRequest, SetRollbackRequest},
    set::MAX_OPERATIONS,
};
use service::http::{bodies::Body, caller::Caller, problem::ProblemError};

use crate::{
    api::{
        Api,
        body::optional_request,
        error::ApiError,
        origin::Author,
        past,
        wait::{self, Wait},
    },
    rollback::{Conflict, ExpectedRevision, Plan, Restriction, RollbackError, Rollbacks},
};

/// What a caller needs for each document of a set.
const IN_SET: &[Right] = &[Right::WriteSet, Right::Write];

/// Longest body in bytes: 256 ids.
pub(super) const LIMIT: usize = 64 << 10;

pub(super) async fn of_document(
    api: web::Data<Api>,
    caller: Caller,
    key: web::Path<(String, String)>,
    request: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let key = api.document_key(&caller, &key)?;
    let author = Author::of(caller, &request)?;
    author.require_write(&key)?;
    let rollback = read(&body)?;
    for (pointer, is_given) in [
        ("/ids", rollback.ids.is_some()),
        ("/partial", rollback.partial),
    ] {
        if is_given {
            let detail = "Only the rollback of a collection has this member";
            return Err(bad_body(pointer, detail));
        }
    }
    let expected = match rollback.expected {
        None => Expected::Any,
        Some(RollbackExpected::Revision(revision)) => Expected::revision(revision),
        Some(RollbackExpected::Document(version)) => Expected::Exactly(version),
        Some(RollbackExpected::Collection(..)) => {
            let detail = "A document is expected at a revision, or at \"<revision>-<crc>\"";
            return Err(bad_body("/expected", detail));
        }
    };
    let point = point(&rollback)?;
    let author = or_reason(author, &format!("rollback to {point}"));
    let wait = Wait::of_run(&api, &author.caller, &request, rollback.dry_run).await?;
    let slot = api.history_slot(&request).await?;
    let collection = key.0.clone();
    let plan = api.rollbacks().of_document(key, &point, &expected).await;
    let done = api
        .finish(plan, Some(&collection), rollback.dry_run, &author)
        .await?;
    drop(slot);
    answer(&api, wait, done, BTreeSet::from([collection])).await
}

pub(super) async fn of_collection(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    request: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    let collection = api.collection(&caller, &name)?;
    let author = Author::of(caller, &request)?;
    let rollback = read(&body)?;
    let ids = rollback.ids.as_deref();
    match ids {
        Some(ids) => {
            for id in ids {
                author.require(IN_SET, Target::Document(&collection, id))?;
            }
        }
        None => author.require(IN_SET, Target::Collection(&collection))?,
    }
    if ids.is_some_and(|ids| ids.is_empty() || ids.len() > MAX_OPERATIONS) {
        let detail = format!("A rollback names 1 to {MAX_OPERATIONS} documents");
        return Err(bad_body("/ids", detail));
    }
    let expected = match rollback.expected {
        None => None,
        Some(RollbackExpected::Revision(revision)) => Some(ExpectedRevision {
            epoch: None,
            revision,
        }),
        Some(RollbackExpected::Collection(epoch, revision)) => Some(ExpectedRevision {
            epoch: Some(epoch),
            revision,
        }),
        Some(RollbackExpected::Document(_version)) => {
            let detail = "A collection is expected at a revision, or at \"<epoch>-<revision>\"";
            return Err(bad_body("/expected", detail));
        }
    };
    let point = point(&rollback)?;
    let author = or_reason(author, &format!("rollback to {point}"));
    let restriction = Restriction {
        expected,
        ids: ids.map(|ids| ids.iter().cloned().collect()),
        partial: rollback.partial,
    };
    let wait = Wait::of_run(&api, &author.caller, &request, rollback.dry_run).await?;
    let slot = api.history_slot(&request).await?;
    let plan = api
        .rollbacks()
        .of_collection(&collection, &point, &restriction)
        .await;
    let done = api
        .finish(plan, Some(&collection), rollback.dry_run, &author)
        .await?;
    drop(slot);
    answer(&api, wait, done, BTreeSet::from([collection])).await
}

pub(super) async fn of_set(
    api: web::Data<Api>,
    caller: Caller,
    set: web::Path<String>,
    request: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    if set.is_empty() || set.len() > MAX_LEN {
        let detail = format!("expected 1 to {MAX_LEN} bytes");
        return Err(ProblemError::bad_request("setId", detail).into());
    }
    let SetRollbackRequest { dry_run } = optional_request(&body, r#""dryRun": true|false"#)?;
    let reason = format!("undo of change set {}", *set);
    let author = or_reason(Author::of(caller, &request)?, &reason);
    let wait = Wait::of_run(&api, &author.caller, &request, dry_run).await?;
    let slot = api.history_slot(&request).await?;
    let changes = api.store.set(&set).await.map_err(RollbackError::from)?;
    require_undo(&author, &set, &changes)?;
    let serves = |name: &CollectionName| {
        let found = api.policy.collections.find(name.as_str());
        found.map(drop)
    };
    let plan = api.rollbacks().of_set(&changes, serves).await;
    let done = api.finish(plan, None, dry_run, &author).await?;
    drop(slot);
    let collections = changes.into_iter().map(|change| change.collection);
    answer(&api, wait, done, collections.collect()).await
}

/// The answer to a rollback in these collections, after what its request waits for.
async fn answer(
    api: &Api,
    wait: Wait,
    mut done: Rollback,
    collections: BTreeSet<CollectionName>,
) -> Result<HttpResponse, ApiError> {
    let documents: Vec<_> = done
        .items
        .iter()
        .filter_map(|item| Some((item.collection.clone(), item.id.clone(), item.revision?)))
        .collect();
    if !documents.is_empty() {
        done.applied = wait.until_applied(api, documents).await;
    } else if done.items.is_empty() {
        // What the documents are now may not have arrived: the request may be one of a series.
        done.applied = wait.until_newest(api, &collections).await?;
    }
    let status = wait::status(StatusCode::OK, done.applied.as_ref());
    Ok(HttpResponse::build(status).json(done))
}

/// Asks for the right to write each document of a set. To a caller that may read none of them, the
/// set does not exist; a document that it may not read is not named.
fn require_undo(author: &Author, set: &str, changes: &[Change]) -> Result<(), ApiError> {
    let may = |right, change: &Change| {
        let target = Target::Document(&change.collection, &change.id);
        author.caller.may(right, target)
    };
    if !changes.iter().any(|change| may(Right::Read, change)) {
        return Err(RollbackError::NoSet(set.to_owned()).into());
    }
    // Documents that it may read are named first.
    for change in changes.iter().filter(|change| may(Right::Read, change)) {
        author.require(IN_SET, Target::Document(&change.collection, &change.id))?;
    }
    if changes.iter().all(|change| may(Right::Read, change)) {
        return Ok(());
    }
    let missing = MissingRight {
        rights: vec![Right::WriteSet],
        target: "another document of the change set".to_owned(),
    };
    Err(author.caller.refused(missing).into())
}

fn read(body: &[u8]) -> Result<RollbackRequest, ApiError> {
    objects::from_slice_located(body)
        .map_err(|JsonError { pointer, reason }| bad_body(pointer, reason))
}

fn point(rollback: &RollbackRequest) -> Result<Point, ApiError> {
    rollback.point().ok_or_else(|| {
        let detail = "A rollback has exactly one of toRevision, at and toSnapshot";
        bad_body("", detail)
    })
}

fn bad_body(pointer: impl Into<String>, detail: impl Into<String>) -> ApiError {
    Problem::new(ProblemKind::BadBody, detail)
        .at(pointer)
        .into()
}

/// The author, with this reason unless the request says another one.
fn or_reason(mut author: Author, reason: &str) -> Author {
    if author.context.reason().is_none() {
        // A reason of another form, for example of a set with an unusual id, is left out.
        let context = author.context.clone().with_reason(reason);
        author.context = context.unwrap_or(author.context);
    }
    author
}

impl Api {
    fn rollbacks(&self) -> Rollbacks<'_> {
        Rollbacks {
            store: &self.store,
            writer: &self.writer,
        }
    }

    /// Shows or writes a plan. `collection` is the one that goes back to a state of its past.
    async fn finish(
        &self,
        plan: Result<Plan, RollbackError>,
        collection: Option<&CollectionName>,
        dry_run: bool,
        author: &Author,
    ) -> Result<Rollback, ApiError> {
        match self.done(plan, dry_run, author).await {
            Ok(rollback) => Ok(rollback),
            // As any write: it names the change that the rollback conflicts with.
            Err(RollbackError::Write { error, keys }) => {
                Err(self.refusal(error, &keys, &author.caller).await)
            }
            Err(RollbackError::Past(error)) => Err(match collection {
                Some(collection) => past::refused(error, &author.caller, collection),
                None => error.into(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    async fn done(
        &self,
        plan: Result<Plan, RollbackError>,
        dry_run: bool,
        author: &Author,
    ) -> Result<Rollback, RollbackError> {
        let plan = plan?;
        if dry_run {
            self.rollbacks().show(plan).await
        } else {
            let actor = author.caller.identity().name.clone();
            self.rollbacks().write(plan, &author.context, actor).await
        }
    }
}

impl From<RollbackError> for ApiError {
    fn from(error: RollbackError) -> Self {
        let detail = error.to_string();
        let conflict = |kind, conflict: Conflict| {
            let mut problem = Problem::new(kind, detail.clone());
            problem.etag = conflict.stored.as_ref().map(contract::Document::etag);
            problem.current = Some(Current::of(conflict.stored.as_ref()));
            problem.last_change = conflict.last_change.map(Box::new);
            problem.into()
        };
        match error {
            RollbackError::Past(error) => error.into(),
            RollbackError::NoSet(_) => Problem::new(ProblemKind::NoSet, detail)
                .field("setId")
                .into(),
            RollbackError::NotAsExpected(at) => conflict(ProblemKind::ConditionFailed, at),
            RollbackError::OtherEpoch { .. } => {
                Problem::new(ProblemKind::ConditionFailed, detail).into()
            }
            RollbackError::ChangedSince(at) => conflict(ProblemKind::ChangedSince, at),
            RollbackError::TooMany(_) => Problem::new(ProblemKind::SetTooLarge, detail).into(),
            RollbackError::Refused { error, .. } => {
                // Pointers begin at the value of then.
                let mut answer = Self::from(error);
                answer.problem.detail = detail;
                answer
            }
            RollbackError::Write { error, .. } | RollbackError::Failed(error) => error.into(),
        }
    }
}
