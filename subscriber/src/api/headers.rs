//! The headers of every read: which revision the data has, and how far it may be trusted.
//!
//! They are made from the view that the body is made from, so that they never contradict it. A read
//! that was refused gets them afterwards, in one place: [`complete_refusals`].

use std::{cell::RefCell, time::Instant};

use actix_web::{
    Error, HttpResponse, HttpResponseBuilder,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    web,
};
use contract::{CollectionName, Epoch, Revision, status::ReplicaState};
use replica::{RawCollection as Collection, View};

use super::Api;

/// The revision of the data: `<epoch>-<watermark>` for one collection, the epoch for several (their
/// heads are in the body), `unversioned` when there is no epoch.
const REVISION: HeaderName = HeaderName::from_static("confcast-revision");
/// How far the data may be trusted: a [`ReplicaState`].
const STATE: HeaderName = HeaderName::from_static("confcast-state");

/// Value of [`REVISION`] for a collection whose publisher has no revisions.
pub(super) const UNVERSIONED: &str = "unversioned";

/// The paths of reads begin with one of these.
const READS: [&str; 3] = ["/v1/collections", "/v1/snapshot", "/v1/changes"];

/// Begins the answer of a read of one collection.
pub(super) fn of_collection(
    view: &View,
    name: &CollectionName,
    held: &Collection,
) -> HttpResponseBuilder {
    let epoch = view.root().epoch().filter(|_epoch| held.versioned());
    let revision = epoch.map(|epoch| revision(epoch, held.watermark()));
    answer(revision, view.state_of(name, Instant::now()))
}

/// The text of a revision. That of the read before it is kept, because most reads follow each other
/// faster than changes do.
fn revision(epoch: Epoch, watermark: Revision) -> HeaderValue {
    thread_local! {
        static LAST: RefCell<Option<((Epoch, Revision), HeaderValue)>> = const { RefCell::new(None) };
    }
    let at = (epoch, watermark);
    LAST.with_borrow_mut(|last| {
        if let Some((_at, text)) = last.as_ref().filter(|(of, _text)| *of == at) {
            return text.clone();
        }
        let text = value(format!("{epoch}-{watermark}"));
        *last = Some((at, text.clone()));
        text
    })
}

/// Epochs and numbers are valid in every header.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(UNVERSIONED))
}

/// Begins the answer of a read of several collections.
pub(super) fn of_all(view: &View) -> HttpResponseBuilder {
    let epoch = view.root().epoch().map(|epoch| value(epoch.to_string()));
    answer(epoch, view.state(Instant::now()))
}

fn answer(revision: Option<HeaderValue>, state: ReplicaState) -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header((
            REVISION,
            revision.unwrap_or(HeaderValue::from_static(UNVERSIONED)),
        ))
        .insert_header((STATE, HeaderValue::from_static(state.as_str())));
    answer
}

/// Middleware: gives the headers to the answer of a read that a handler refused before it had a
/// collection (an unknown name, a wrong parameter, nothing loaded yet). They are those of all
/// collections.
///
/// # Errors
/// As the inner services.
pub(super) async fn complete_refusals(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let reads = READS.iter().any(|read| request.path().starts_with(read));
    let mut response = next.call(request).await?;
    if reads && !response.headers().contains_key(STATE) {
        let api = response.request().app_data::<web::Data<Api>>();
        if let Some(view) = api.map(|api| api.replica.view()) {
            insert(response.headers_mut(), of_all(&view).finish().headers());
        }
    }
    Ok(response)
}

fn insert(headers: &mut HeaderMap, more: &HeaderMap) {
    for name in [REVISION, STATE] {
        if let Some(value) = more.get(&name) {
            headers.insert(name, value.clone());
        }
    }
}
