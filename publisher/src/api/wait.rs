//! Requests that wait until replicas have applied a write: `?wait=all&timeout=5s` of the write itself,
//! or a request of its own.
//!
//! What waits has the slot of a live stream, so both have one limit. The write is committed whatever
//! the wait brings: its answer is 202 where the wait was in vain, and never an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{self, Query},
};
use contract::{
    CollectionName, DocumentId, Epoch, Revision,
    access::{Right, Target},
    applied::{self, Applied, WaitFor},
};
use serde::Deserialize;
use service::http::{
    caller::Caller,
    problem::ProblemError,
    source::Source,
    stream_slots::{SlotUse, StreamSlot},
};
use tokio::time::Instant;

use crate::{
    api::{
        Api,
        error::ApiError,
        past::{self, revision_of},
        store_failed,
    },
    fleet::progress::AppliedWrite,
    store::past::PastError,
    transport::confirm::ConfirmationWanted,
};

/// Query of a write.
#[derive(Deserialize)]
struct WaitQuery {
    wait: Option<String>,
    timeout: Option<String>,
}

impl WaitQuery {
    fn of(request: &HttpRequest) -> Result<Self, ProblemError> {
        let query = Query::<Self>::from_query(request.query_string());
        Ok(query.map_err(ProblemError::unreadable)?.into_inner())
    }

    /// How many replicas, and for how long.
    fn limits(&self) -> Result<(WaitFor, Duration), ProblemError> {
        let wait = self.wait.as_deref().map(str::parse).transpose();
        let wait = wait.map_err(|error| ProblemError::bad_request("wait", error))?;
        let timeout = self.timeout.as_deref().map(applied::timeout).transpose();
        let timeout = timeout.map_err(|error| ProblemError::bad_request("timeout", error))?;
        Ok((
            wait.unwrap_or(WaitFor::All),
            timeout.unwrap_or(applied::DEFAULT_TIMEOUT),
        ))
    }
}

/// What a request waits for; nothing, for most.
pub(super) struct Wait(Option<Asked>);

struct Asked {
    wait: WaitFor,
    timeout: Duration,
    epoch: Epoch,
    /// Whether the caller may know the replicas.
    names: bool,
    slot: StreamSlot,
    _confirmation: ConfirmationWanted,
}

/// A document of a write, and the revision that the write gave it.
pub(super) type WrittenDocument = (CollectionName, DocumentId, Revision);

impl Wait {
    /// Parses the query of a write that was not made yet: its event must ask for confirmations.
    ///
    /// # Errors
    /// 400 `bad-request` for a value of another form, 503 `streams-full` when too many wait, and 503
    /// `store-unavailable`.
    pub(super) async fn of(
        api: &Api,
        caller: &Caller,
        request: &HttpRequest,
    ) -> Result<Self, ApiError> {
        Self::of_run(api, caller, request, false).await
    }

    /// The same for a request that may be a dry run, which writes nothing and waits for nothing.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(super) async fn of_run(
        api: &Api,
        caller: &Caller,
        request: &HttpRequest,
        dry_run: bool,
    ) -> Result<Self, ApiError> {
        let query = WaitQuery::of(request)?;
        let limits = query.limits()?;
        if dry_run || (query.wait.is_none() && query.timeout.is_none()) {
            return Ok(Self(None));
        }
        let asked = Asked::of(api, caller, request, limits).await?;
        Ok(Self(Some(asked)))
    }

    /// Waits for a write that is committed. `None` where nothing is waited for.
    pub(super) async fn until_applied(
        self,
        api: &Api,
        documents: Vec<WrittenDocument>,
    ) -> Option<Applied> {
        let asked = self.0?;
        let mut revisions = BTreeMap::new();
        for (collection, _id, revision) in &documents {
            let last = revisions.entry(collection.clone()).or_insert(0);
            *last = (*revision).max(*last);
        }
        Some(asked.until_applied(api, revisions, Some(documents)).await)
    }

    /// The same for what these collections are now: a write that found nothing to change.
    ///
    /// # Errors
    /// 503 `store-unavailable`.
    pub(super) async fn until_newest(
        self,
        api: &Api,
        collections: &BTreeSet<CollectionName>,
    ) -> Result<Option<Applied>, ApiError> {
        let Some(asked) = self.0 else {
            return Ok(None);
        };
        let heads = api.store.heads(collections).await.map_err(store_failed)?;
        let heads = heads.into_iter();
        let revisions = heads.map(|head| (head.collection, head.revision));
        let applied = asked.until_applied(api, revisions.collect(), None).await;
        Ok(Some(applied))
    }
}

impl Asked {
    async fn of(
        api: &Api,
        caller: &Caller,
        request: &HttpRequest,
        (wait, timeout): (WaitFor, Duration),
    ) -> Result<Self, ApiError> {
        let slot = api.streams.open(Source::of(request), SlotUse::Wait)?;
        let identity = api.store.identity().await.map_err(store_failed)?;
        Ok(Self {
            wait,
            timeout,
            epoch: identity.epoch,
            names: caller.may(Right::Observe, Target::Service),
            slot,
            _confirmation: api.fleet.want_confirmations(),
        })
    }

    async fn until_applied(
        self,
        api: &Api,
        revisions: BTreeMap<CollectionName, Revision>,
        documents: Option<Vec<WrittenDocument>>,
    ) -> Applied {
        let write = AppliedWrite {
            epoch: self.epoch,
            revisions,
            documents,
        };
        let begun = Instant::now();
        let until = |deadline| (api.fleet).until_applied(&write, self.wait, deadline, self.names);
        let mut applied = tokio::select! {
            applied = until(begun + self.timeout) => applied,
            // The process stops: what is known now is the answer.
            () = self.slot.stopped() => until(Instant::now()).await,
        };
        let waited_ms = u64::try_from(begun.elapsed().as_millis());
        applied.waited_ms = waited_ms.unwrap_or(u64::MAX);
        applied
    }
}

/// The status of a write that would be `status` without a wait.
pub(super) fn status(status: StatusCode, applied: Option<&Applied>) -> StatusCode {
    match applied {
        Some(Applied { reached: false, .. }) => StatusCode::ACCEPTED,
        _reached_or_not_awaited => status,
    }
}

/// Query of [`applied()`].
#[derive(Deserialize)]
pub(super) struct AppliedQuery {
    /// The newest one, if it is absent.
    revision: Option<String>,
    /// The document of the write. Without it, replicas must have taken every value up to the revision.
    id: Option<String>,
}

/// `GET /v1/collections/{collection}/applied`: how many replicas have applied a revision, now or as
/// soon as they are enough.
pub(super) async fn applied(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    query: Query<AppliedQuery>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let collection = api.collection(&caller, &name)?;
    let AppliedQuery { revision, id } = query.into_inner();
    let revision = revision.map(|text| revision_of(&text)).transpose()?;
    let id = id.map(|id| id.parse::<DocumentId>()).transpose();
    let id = id.map_err(|error| ProblemError::bad_request("id", error))?;
    let target = match &id {
        Some(id) => Target::Document(&collection, id),
        None => Target::Collection(&collection),
    };
    caller.require_one(&[Right::Read, Right::Observe], target)?;
    let limits = WaitQuery::of(&request)?.limits()?;
    let heads = BTreeSet::from([collection.clone()]);
    let newest = api.store.heads(&heads).await.map_err(store_failed)?;
    let newest = newest.first().map_or(0, |head| head.revision);
    let revision = revision.unwrap_or(newest);
    if revision > newest {
        let ahead = PastError::Ahead {
            collection: collection.clone(),
            revision: newest,
        };
        return Err(past::refused(ahead, &caller, &collection));
    }
    let asked = Asked::of(&api, &caller, &request, limits).await?;
    let documents = id.map(|id| vec![(collection.clone(), id, revision)]);
    let revisions = BTreeMap::from([(collection, revision)]);
    let applied = asked.until_applied(&api, revisions, documents).await;
    Ok(HttpResponse::Ok().json(applied))
}
