//! Reads that ask for a revision: [`Fresh`] is an argument of their handlers, which run when this replica
//! has it.
//!
//! A request that waits has the slot of a live stream, so both have one limit; one whose revision is
//! there takes none. What no revision can change is answered by the handler as ever.

use std::time::Instant;

use actix_web::{Error, FromRequest, HttpRequest, dev::Payload, error::InternalError, web};
use contract::{
    CollectionName,
    access::{Right, Target},
};
use replica::{RawCollection as Collection, View};
use service::http::{
    caller::Caller,
    freshness::{Extracting, MinRevision, extract, not_fresh, stopping},
    problem::respond,
    source::Source,
    stream_slots::SlotUse,
};

use super::{Api, error, headers};

/// The replica has the revision that the request asks for, if it asks for one.
pub struct Fresh;

type Outcome = Result<Fresh, Error>;

impl FromRequest for Fresh {
    type Error = Error;
    type Future = Extracting<Self>;

    /// # Errors
    /// 400 `bad-request`, 404 `unversioned`, 503 `loading`, 503 `streams-full`, 503
    /// `stopping`, 504 `not-fresh`.
    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        extract(request, Self, until_fresh)
    }
}

async fn until_fresh(request: HttpRequest, asked: MinRevision) -> Outcome {
    let api = web::Data::<Api>::extract(&request).await?;
    let name = request.match_info().get("collection");
    // A text that is no name is no collection either.
    let Some(name) = name.and_then(|name| name.parse::<CollectionName>().ok()) else {
        return Ok(Fresh);
    };
    {
        let view = api.replica.view_guard();
        if view.has_revision(&name, asked.revision) || !may_come(&view, &name) {
            return Ok(Fresh);
        }
    }
    let deadline = Instant::now() + asked.timeout;
    let slot = api.streams.open(Source::of(&request), SlotUse::Wait)?;
    let arrives = (api.replica).wait_for_revision(&name, asked.revision, deadline);
    let is_stopping = tokio::select! {
        _waited = arrives => false,
        () = slot.stopped() => true,
    };
    // However the wait ended, what is there now decides.
    let view = api.replica.view();
    match view.root().collection(&name) {
        Some(held) if !view.has_revision(&name, asked.revision) => {
            if is_stopping {
                return Err(stopping().into());
            }
            Err(refusal(&api, &request, &view, (&name, held), asked))
        }
        _arrived_or_given_up => Ok(Fresh),
    }
}

/// Whether a revision of the collection may come: it is followed, and some publisher serves it.
fn may_come(view: &View, name: &CollectionName) -> bool {
    let is_served = view.is_served(name) || view.loaded_of(name);
    view.root().collection(name).is_some() && is_served
}

/// The refusal of a request whose revision is not there, with the headers of a read.
fn refusal(
    api: &Api,
    request: &HttpRequest,
    view: &View,
    (name, held): (&CollectionName, &Collection),
    asked: MinRevision,
) -> Error {
    if !view.loaded_of(name) {
        return error::loading().into();
    }
    if !held.versioned() {
        return error::unversioned(name.as_str()).into();
    }
    let mut detail = format!(
        "{name} is at revision {} here and not at {} yet; its state is {}",
        held.watermark(),
        asked.revision,
        view.state_of(name, Instant::now()).as_str()
    );
    if let Some(reason) = view.reason_of(name) {
        detail += &format!(" ({reason})");
    }
    // A publisher that gives no answer is not an error yet, and its collections are current until then.
    detail += &match view.confirmed(Instant::now()) {
        Some(ago) => format!(
            "; a publisher last confirmed it {:.1} s ago",
            ago.as_secs_f64()
        ),
        None => "; no publisher has confirmed it since this replica started".to_owned(),
    };
    // An error may name hosts and settings.
    let may_know = Caller::of(request).may(Right::Observe, Target::Service);
    if let Some(error) = may_know.then(|| api.replica.status().last_error).flatten() {
        detail += &format!(". The last error: {error}");
    }
    detail += if held.known() < asked.revision {
        ". This replica has not heard of that revision: ask again, read at a publisher, or check that it \
         is of this collection and epoch"
    } else {
        ". Changes before it are missing: ask again, or read at a publisher"
    };
    let answer = respond(headers::of_collection(view, name, held), &not_fresh(detail));
    InternalError::from_response(NOT_FRESH, answer).into()
}

/// How the refusal is called in a log.
const NOT_FRESH: &str = "the revision has not arrived";
