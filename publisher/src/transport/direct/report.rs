//! What is said of a subscriber: a line in the log when something changes, never one for each event, and
//! the failure that the list of replicas shows.

use tracing::{info, warn};

use super::{Subject, breaker::Permit, registry::Subscriber};

/// The subscriber took an event. One line when it takes events again, not one per event.
pub(super) fn report_success(subscriber: &Subscriber, subject: Subject<'_>, permit: Permit<'_>) {
    *subscriber.failure() = None;
    if let Some(missed) = permit.succeeded() {
        info!(
            ?subscriber,
            collection = %subject.collection,
            id = %subject.id,
            revision = subject.revision,
            missed,
            "the subscriber takes events again; it catches up on those that it missed"
        );
    }
}

/// Nothing answers at the URL of a subscriber. One line for each of its runs: it may just have stopped.
pub(super) fn report_silence(subscriber: &Subscriber, error: &reqwest::Error) {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let why = format!("nothing answers at its base URL: {cause}");
    let before = subscriber.failure().replace(why);
    if before.is_none() && subscriber.is_found() {
        info!(
            ?subscriber,
            "the subscriber checked in, and nothing answers at its base URL: {cause}. It gets no events \
             until something does"
        );
    }
}

/// The subscriber did not take an event. One line when that begins, not one per event.
pub(super) fn report_failure(
    subscriber: &Subscriber,
    subject: Subject<'_>,
    permit: Permit<'_>,
    error: &anyhow::Error,
) {
    *subscriber.failure() = Some(format!("{error:#}"));
    if permit.failed() {
        warn!(
            ?subscriber,
            collection = %subject.collection,
            id = %subject.id,
            revision = subject.revision,
            "the subscriber does not take events, it catches up when it compares heads: {error:#}"
        );
    }
}
