//! A change of an event, from its signature to the cache. Nothing here reads the text of an event; see
//! [`super::receive`].

use std::time::{Duration, Instant};

use state::{Decision, ReceivedChange, SignedChange};
use tokio::time::timeout;
use tracing::{Instrument, Level, Span};

use super::{EventOutcome, EventSource, Intake, receive::record_document};
use crate::{SourceError, change_traces::record_decision};

/// Time to fetch a value that an event does not include.
pub(super) const FETCH_BUDGET: Duration = Duration::from_secs(2);

/// Why a change was not applied. It is worth sending again.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    /// The value that the event omits could not be fetched.
    #[error(transparent)]
    Fetch(#[from] SourceError),
    /// Nothing can be applied in this process any more.
    #[error("a change was not applied because of a defect; restart the process")]
    Broken,
}

impl Intake {
    /// Takes the change of an event that has a revision.
    /// It is worth sending again only when its value could not be fetched.
    pub(super) async fn take_change(
        &self,
        source: EventSource,
        signed: &SignedChange,
    ) -> EventOutcome {
        let change = &signed.change;
        record_document(&change.collection, &change.id);
        record_revision(change);
        // Before anything is decided by what the event says.
        if let Some(Err(cause)) = self.keys(source).map(|keys| keys.verify(signed)) {
            return self.refuse(&change.collection, &change.id, cause);
        }
        let span = self.traces.of_event(self.config.events.transport(), change);
        match self.apply(source, change).instrument(span.clone()).await {
            Ok(decision) => {
                record_decision(&span, decision);
                // Anyone may repeat an event, so one that changes nothing asks for nothing.
                if signed.confirm.is_some() && decision.is_new() {
                    self.signals.confirmation_wanted();
                }
                EventOutcome::Success
            }
            Err(error) => self.retry(&change.collection, &change.id, &error),
        }
    }

    /// Applies a change, fetches its value when it has none, and wakes the loop if that is needed.
    ///
    /// # Errors
    /// When the value could not be fetched: the revision is known to be missing then. Also after a
    /// panic of what applies changes.
    async fn apply(
        &self,
        source: EventSource,
        change: &ReceivedChange,
    ) -> Result<Decision, ApplyError> {
        let mut decision = if self.holds_back(source, change) {
            Decision::Unconfirmed
        } else if source.has_many_connections() {
            let decision = self.cache.apply_together(change.clone()).await;
            decision.ok_or(ApplyError::Broken)?
        } else {
            self.cache.apply(change)
        };
        if decision == Decision::NeedsValue {
            // The gap that the revision leaves is closed in any case, if this attempt fails too.
            self.stats.delivered(change);
            self.signals.gap_found();
            let record = self.fetch(change).await?;
            self.stats.count(|events| events.fetched += 1);
            decision = self.cache.apply(&record);
        }
        self.stats.count_decision(change, decision, source);
        // Only after the change is in the view, so that the loop cannot miss its gap.
        let loop_looks_at_gaps = self.signals.event_handled();
        let ReceivedChange {
            collection,
            id,
            revision,
            epoch,
            ..
        } = change;
        tracing::debug!(%collection, %id, revision, %epoch, "the event of {collection}/{id} at revision {revision}: {decision:?}");
        // At most one signal: each leads to a request that answers the others too.
        if decision == Decision::OtherEpoch {
            self.signals.other_epoch_seen();
        } else if decision == Decision::Unconfirmed {
            self.claims.note(change);
            self.signals.unconfirmed_seen();
        } else if decision == Decision::Early && self.cache.view_guard().root().loaded() {
            // A publisher that counted no revisions does so now.
            self.signals.request_check_in();
        } else if !loop_looks_at_gaps && !self.cache.view_guard().gaps.is_empty() {
            self.signals.gap_found();
        }
        Ok(decision)
    }

    /// Whether a change waits for a check-in, because an event of its collection was wrong lately.
    /// The live feed is the log of a publisher, and what was seen before changes nothing.
    fn holds_back(&self, source: EventSource, change: &ReceivedChange) -> bool {
        source != EventSource::Feed
            && self.claims.holds_back(&change.collection, Instant::now())
            && self
                .cache
                .view_guard()
                .root()
                .collection(&change.collection)
                .is_some_and(|held| held.versioned() && change.revision > held.watermark())
    }

    /// The record of a change in the log of the publisher.
    ///
    /// # Errors
    /// When no publisher gave it within [`FETCH_BUDGET`], or the record is another one.
    async fn fetch(&self, change: &ReceivedChange) -> Result<ReceivedChange, SourceError> {
        let record = self
            .source
            .record(&change.collection, change.epoch, change.revision);
        timeout(FETCH_BUDGET, record)
            .await
            .unwrap_or(Err(SourceError::TooLate(FETCH_BUDGET)))
    }
}

/// Names the revision in the span of the event.
fn record_revision(change: &ReceivedChange) {
    if tracing::enabled!(Level::DEBUG) {
        Span::current().record("revision", change.revision);
    }
}
