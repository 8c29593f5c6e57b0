//! Events that are not applied: each is counted, and answered so that a broker sends it again only where
//! that helps. Log lines have a rate, because anyone may send such events in any number.

use std::fmt;

use contract::{CollectionName, DocumentId, signature::UnprovenEvent, text::Escaped};

use super::{EventOutcome, Intake};
use crate::failure_log::LogRate;

/// A remembered drop shows this much of its error: it may quote what was sent.
pub(super) const MAX_ERROR_CHARS: usize = 300;

impl Intake {
    /// Counts and logs an event that says nothing about a document. That is no error: the source
    /// document answers such an event like one that was applied (requirement A23, A25).
    pub(super) fn ignore(&self, event: Option<&str>, why: &str) -> EventOutcome {
        let named = Escaped(event.unwrap_or("without a name"));
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(event, "the event {named} is ignored: it {why}{left_out}");
        }
        self.stats.count(|events| events.ignored += 1);
        EventOutcome::Success
    }

    /// Drops an event that no publisher has signed. Anyone may send such events in any number, so
    /// none is reported to the publisher, and few are remembered.
    pub(super) fn refuse(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        cause: UnprovenEvent,
    ) -> EventOutcome {
        self.stats.unproven(cause);
        // A true event may have been damaged, or the keys may be wrong.
        self.signals.unproven_seen();
        let reason = cause.as_str();
        let error = format!("the event of {collection}/{id} is not proven: {cause}");
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(
                reason, %collection, %id,
                "an event was dropped ({reason}): {error}; the replica asks its publisher for changes{left_out}"
            );
            self.stats.refuted(reason, &error, None);
        }
        EventOutcome::Drop { reason, error }
    }

    /// Counts and logs an event that failed for now, and returns the answer to it.
    pub(super) fn retry(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        error: &dyn fmt::Display,
    ) -> EventOutcome {
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(%collection, %id, "the event of {collection}/{id} could not be applied and must be sent again: {error}{left_out}");
        }
        self.stats.count(|events| events.retried += 1);
        EventOutcome::Retry {
            reason: error.to_string(),
        }
    }

    /// Counts and logs the entries of a bulk that are too many or came too late, and must be sent
    /// again.
    #[cfg(feature = "actix")]
    pub(super) fn retry_entries(&self, left: u64, entries: usize) {
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(
                left,
                entries,
                "{left} of {entries} events of a bulk were not taken in its time and number, and must be sent again{left_out}"
            );
        }
        self.stats.count(|events| events.retried += left);
    }

    /// Reports an event to the publisher if it was dropped. `original` is what arrived.
    pub(super) fn report_drop(
        &self,
        outcome: &EventOutcome,
        original: &[u8],
        collection: Option<&CollectionName>,
    ) {
        if let EventOutcome::Drop { reason, error } = outcome
            // Forged events must not use up the places of true ones.
            && !UnprovenEvent::WORDS.contains(reason)
        {
            let topic = collection.map(CollectionName::as_str);
            self.reports.report(reason, error, original, topic);
        }
    }

    /// Counts and remembers an event that can never succeed, and returns the answer to it.
    pub(crate) fn drop_event(
        &self,
        reason: &'static str,
        error: impl fmt::Display,
    ) -> EventOutcome {
        self.drop_named(None, reason, error)
    }

    /// As [`Intake::drop_event`], of an event whose id and source are known.
    pub(super) fn drop_named(
        &self,
        event: Option<&str>,
        reason: &'static str,
        error: impl fmt::Display,
    ) -> EventOutcome {
        // The text may quote what was sent, which may be large.
        let error: String = error.to_string().chars().take(MAX_ERROR_CHARS).collect();
        let named = Escaped(event.unwrap_or("without a name"));
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            let shown = Escaped(&error);
            tracing::warn!(
                reason,
                error,
                event,
                "the event {named} was dropped ({reason}): {shown}{left_out}"
            );
        }
        self.stats.dropped(reason, &error, event);
        EventOutcome::Drop { reason, error }
    }
}
