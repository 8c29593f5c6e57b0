//! The headers of every read: which revision the data has, and how far it may be trusted.
//!
//! They are made from the view that the body is made from, so that they never contradict it.

use std::time::Instant;

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::header::{HeaderName, HeaderValue},
};
use contract::{CollectionName, status::ReplicaState};
use replica::{RawCollection as Collection, View};

/// The revision of the data: `<epoch>-<watermark>` for one collection, the epoch for several (their
/// heads are in the body), `unversioned` when there is no epoch.
const REVISION: HeaderName = HeaderName::from_static("confcast-revision");
/// How far the data may be trusted: a [`ReplicaState`].
const STATE: HeaderName = HeaderName::from_static("confcast-state");

/// Value of [`REVISION`] for a collection whose publisher has no revisions.
pub(super) const UNVERSIONED: &str = "unversioned";

/// Begins the answer of a read of one collection.
pub(super) fn of_collection(
    view: &View,
    name: &CollectionName,
    held: &Collection,
) -> HttpResponseBuilder {
    let epoch = view.root().epoch().filter(|_epoch| held.versioned());
    let revision = epoch.map(|epoch| format!("{epoch}-{}", held.watermark()));
    answer(revision, view.state_of(name, Instant::now()))
}

/// Begins the answer of a read of several collections.
pub(super) fn of_all(view: &View) -> HttpResponseBuilder {
    let epoch = view.root().epoch().map(|epoch| epoch.to_string());
    answer(epoch, view.state(Instant::now()))
}

fn answer(revision: Option<String>, state: ReplicaState) -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header((REVISION, revision.unwrap_or_else(|| UNVERSIONED.to_owned())))
        .insert_header((STATE, HeaderValue::from_static(state.as_str())));
    answer
}
