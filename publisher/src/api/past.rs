//! Documents as they were: the answers to reads with `revision`, `at` or `snapshot`.

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, http::header};
use contract::{
    CollectionName, Problem, ProblemKind, Revision,
    access::{Right, Target},
    history::{COUNT_HEADER, DIGEST_HEADER, Point, REVISION_HEADER},
    listing::ListFormat,
};
use serde::Deserialize;
use service::http::{
    caller::Caller,
    etag,
    problem::{self, ProblemError},
    snapshot_slots::SnapshotSlot,
};

use crate::{
    api::{Api, error::ApiError, stream},
    decide::DocumentKey,
    store::past::{PastError, PastPoint},
};

/// The largest revision that a store can hold.
const MAX_REVISION: Revision = i64::MAX as Revision;

/// The parameters of a read of the past. At most one of them is given.
#[derive(Debug, Deserialize)]
pub(super) struct PointQuery {
    revision: Option<String>,
    at: Option<String>,
    snapshot: Option<String>,
}

impl PointQuery {
    /// The point; `None` = the present.
    ///
    /// # Errors
    /// 400 `bad-request`, which names the parameter.
    pub(super) fn point(&self) -> Result<Option<Point>, ApiError> {
        let Self {
            revision,
            at,
            snapshot,
        } = self;
        Ok(match (revision, at, snapshot) {
            (None, None, None) => None,
            (Some(text), None, None) => Some(Point::Revision(revision_of(text)?)),
            (None, Some(time), None) => Some(Point::Time(instant("at", time)?)),
            (None, None, Some(name)) => {
                Some(Point::Snapshot(name.parse().map_err(|error| {
                    ProblemError::bad_request("snapshot", error)
                })?))
            }
            (_, Some(_), _) => return Err(several("at")),
            (Some(_), None, Some(_)) => return Err(several("snapshot")),
        })
    }
}

/// The revision of a request.
///
/// # Errors
/// 400 `bad-request`.
pub(super) fn revision_of(text: &str) -> Result<Revision, ProblemError> {
    let number = text.parse().ok();
    number
        .filter(|number| *number <= MAX_REVISION)
        .ok_or_else(|| {
            let detail = format!("expected a number from 0 to {MAX_REVISION}");
            ProblemError::bad_request("revision", detail)
        })
}

fn several(field: &str) -> ApiError {
    let detail = "revision, at and snapshot exclude each other";
    ProblemError::bad_request(field, detail).into()
}

/// A time of a request.
///
/// # Errors
/// 400 `bad-request`, which names the parameter.
pub(super) fn instant(
    field: &str,
    text: &str,
) -> Result<chrono::DateTime<chrono::Utc>, ProblemError> {
    text.parse().map_err(|_error| {
        let detail = "expected a time with its offset (RFC 3339), in a URL with %2B for +: \
                      2026-11-28T09:00:00Z";
        ProblemError::bad_request(field, detail)
    })
}

/// One document as it was. A caller that may not see the head of the collection learns no count and
/// no digest: they are over all documents, and those of two revisions tell what changed between them.
pub(super) async fn document(
    api: &Api,
    caller: &Caller,
    request: &HttpRequest,
    (collection, id): DocumentKey,
    point: &Point,
) -> Result<HttpResponse, ApiError> {
    let past = api.store.resolve(&collection, point).await;
    let past = past.map_err(|error| refused(error, caller, &collection))?;
    let document = api.store.document_at(&past, &id).await?;
    let mut response = answer(point, &past);
    if sees_head(caller, &collection) {
        prove(&mut response, &past);
    }
    let Some(document) = document else {
        let detail = format!(
            "{collection} with id: {id} did not exist at revision {}",
            past.revision
        );
        let problem = Problem::new(ProblemKind::NoData, detail).field("id");
        // With the headers, which say of which state the document is absent.
        return Ok(problem::respond(response, &problem));
    };
    if let Some(answered) = etag::conditional(request, &mut response, &document.etag()) {
        return Ok(answered);
    }
    response.content_type(header::ContentType::json());
    Ok(response.body(document.body()))
}

/// All documents of a collection as they were.
pub(super) async fn documents(
    api: &Api,
    request: &HttpRequest,
    collection: &CollectionName,
    point: &Point,
    slot: SnapshotSlot,
    format: ListFormat,
) -> Result<HttpResponse, ApiError> {
    let past = api.store.resolve(collection, point).await?;
    let mut response = answer(point, &past);
    prove(&mut response, &past);
    response.insert_header((header::VARY, "Accept"));
    let etag = etag::of_list(&version(&past), format);
    if let Some(answered) = etag::conditional(request, &mut response, &etag) {
        return Ok(answered);
    }
    let reading = api.store.documents_at(&past).await?;
    Ok(stream::list(response, reading, slot, format))
}

/// The version of a list of the past. A restored database may give a revision of the same epoch
/// another state, so the proof of the state is part of it. It is not the version of the list of the
/// present: the heads in them are not the same bytes.
fn version(past: &PastPoint) -> String {
    let PastPoint {
        epoch,
        revision,
        count,
        digest,
        ..
    } = past;
    format!("{epoch}-{revision}-{count}-{digest}-past")
}

/// Whether a caller may see count, digest and bounds of a collection, and not only of its documents.
pub(super) fn sees_head(caller: &Caller, collection: &CollectionName) -> bool {
    let target = Target::Collection(collection);
    caller.may(Right::Read, target) || caller.may(Right::Observe, target)
}

/// The answer for a state that cannot be read, with as much of the collection as the caller may see.
pub(super) fn refused(error: PastError, caller: &Caller, collection: &CollectionName) -> ApiError {
    let is_shown = sees_head(caller, collection);
    match error {
        PastError::Ahead { .. } if !is_shown => {
            let detail = format!("{collection} has no such revision yet");
            Problem::new(ProblemKind::NoRevision, detail).into()
        }
        PastError::NotKept { .. } if !is_shown => {
            let detail = format!("the state of {collection} is not kept");
            Problem::new(ProblemKind::NotKept, detail).into()
        }
        error => error.into(),
    }
}

/// An answer with the headers of the state that it shows, without its proof.
fn answer(point: &Point, past: &PastPoint) -> HttpResponseBuilder {
    let caching = match point {
        // A restored database gives a revision another meaning, so not for long.
        Point::Revision(_) => "private, max-age=60",
        // The newest change before a time may not be committed yet, and a name may be used again.
        Point::Time(_) | Point::Snapshot(_) => "private, no-cache",
    };
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header((header::CACHE_CONTROL, caching))
        .insert_header((REVISION_HEADER, format!("{}-{}", past.epoch, past.revision)));
    answer
}

/// Adds the proof of a state: count and digest of all documents of the collection.
fn prove(answer: &mut HttpResponseBuilder, past: &PastPoint) {
    answer
        .insert_header((DIGEST_HEADER, past.digest.to_string()))
        .insert_header((COUNT_HEADER, past.count.to_string()));
}

impl From<PastError> for ApiError {
    fn from(error: PastError) -> Self {
        let detail = error.to_string();
        match error {
            PastError::NotKept { oldest, .. } => Problem {
                oldest: Some(oldest),
                ..Problem::new(ProblemKind::NotKept, detail)
            }
            .into(),
            PastError::Ahead { .. } => Problem::new(ProblemKind::NoRevision, detail).into(),
            PastError::NoSnapshot(_) => Problem::new(ProblemKind::NoSnapshot, detail).into(),
            PastError::Store(error) => super::store_failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::{Digest, Epoch};

    use super::*;

    #[test]
    fn two_states_of_one_revision_have_two_versions() {
        let state = |count, digest| {
            version(&PastPoint {
                collection: "Skills".parse().expect("a name"),
                revision: 3,
                count,
                digest: Digest(digest),
                epoch: Epoch {
                    lineage: 7,
                    counter: 1,
                },
                time: None,
            })
        };
        assert_eq!(state(1, 5), state(1, 5));
        assert_ne!(state(1, 5), state(1, 6), "after a restore");
        assert_ne!(state(1, 5), state(2, 5));
    }
}
