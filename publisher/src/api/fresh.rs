//! Reads that ask for a revision: [`Fresh`] is an argument of their handlers, which run when the store
//! has it.
//!
//! A publisher reads what is committed, so a revision that is not there was not committed yet. A request
//! that waits for it has the slot of a live stream, and all of them share one reading of the heads.

use std::collections::BTreeSet;

use actix_web::{
    Error, FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    error::InternalError,
    web::{self, Query},
};
use contract::{CollectionName, Head, history::REVISION_HEADER};
use service::http::{
    caller::Caller,
    freshness::{Extracting, MinRevision, PARAMETER, extract, not_fresh, stopping},
    problem::{ProblemError, respond},
    source::Source,
    stream_slots::SlotUse,
};
use tokio::time::timeout;

use crate::api::{Api, error::ApiError, past, store_failed};

/// The store has the revision that the request asks for, if it asks for one.
pub(super) struct Fresh;

type Outcome = Result<Fresh, Error>;

impl FromRequest for Fresh {
    type Error = Error;
    type Future = Extracting<Self>;

    /// # Errors
    /// 400 `bad-request`, 503 `store-unavailable`, 503 `streams-full`, 503 `stopping`,
    /// 504 `not-fresh`.
    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        extract(request, Self, until_fresh)
    }
}

async fn until_fresh(request: HttpRequest, asked: MinRevision) -> Outcome {
    let api = web::Data::<Api>::extract(&request).await?;
    let caller = Caller::of(&request);
    let query = Query::<past::PointQuery>::from_query(request.query_string());
    let query = query.map_err(ProblemError::unreadable)?;
    if query.point()?.is_some() {
        let detail = "a state of the past does not change: leave this out, or the past";
        return Err(ProblemError::bad_request(PARAMETER, detail).into());
    }
    let name = request.match_info().get("collection").unwrap_or_default();
    let Ok(collection) = api.collection(&caller, name) else {
        // The handler refuses it.
        return Ok(Fresh);
    };
    let has_it = |head: &Head| head.collection == collection && head.revision >= asked.revision;
    if newest(&api, &collection)
        .await?
        .as_ref()
        .is_some_and(has_it)
    {
        return Ok(Fresh);
    }
    let slot = api.streams.open(Source::of(&request), SlotUse::Wait)?;
    let arrives = async {
        let (mut readings, _first) = api.feed.follow().await;
        let arrived = |heads: &[Head]| heads.iter().any(has_it);
        let reading = readings.wait_for(|reading| reading.heads.as_deref().is_some_and(arrived));
        reading.await.is_ok()
    };
    let has_arrived = tokio::select! {
        waited = timeout(asked.timeout, arrives) => waited == Ok(true),
        () = slot.stopped() => return Err(stopping().into()),
    };
    if has_arrived {
        return Ok(Fresh);
    }
    match newest(&api, &collection).await? {
        Some(head) if !has_it(&head) => Err(refusal(&caller, &head, asked)),
        _arrived_or_unknown => Ok(Fresh),
    }
}

async fn newest(api: &Api, collection: &CollectionName) -> Result<Option<Head>, ApiError> {
    let collections = BTreeSet::from([collection.clone()]);
    let heads = api.store.heads(&collections).await.map_err(store_failed)?;
    Ok(heads.into_iter().next())
}

/// The refusal of a request whose revision is not there. A caller that may not see the head learns
/// nothing of it.
fn refusal(caller: &Caller, head: &Head, asked: MinRevision) -> Error {
    let Head {
        collection,
        epoch,
        revision,
        ..
    } = head;
    let mut answer = HttpResponse::Ok();
    let newest = if past::sees_head(caller, collection) {
        answer.insert_header((REVISION_HEADER, format!("{epoch}-{revision}")));
        format!("; the newest is {revision}, in epoch {epoch}")
    } else {
        String::new()
    };
    let detail = format!(
        "{collection} has no revision {} yet{newest}. Check that it is of this collection and epoch, or ask again",
        asked.revision
    );
    let answer = respond(answer, &not_fresh(detail));
    InternalError::from_response("the revision is not committed", answer).into()
}
