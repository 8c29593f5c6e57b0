//! What becomes of an event: the one way of events into a replica, from whatever source.
//!
//! An event is a report of a change, not an order. Its change is applied when it can be; when the
//! value is missing, the change log of the publisher is asked. No event changes the history that is
//! followed, and the answer to an event does not depend on any reader or handler.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use contract::{
    CollectionName, DocumentId, EventData, Operation, canonical, signature::UnprovenEvent,
    text::Escaped,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use state::{Decision, ReceivedChange, SignedChange};
#[cfg(feature = "actix")]
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{Instrument, Level, Span, field};

use super::{
    DropReports, EventKeys, EventOutcome, EventSource, IdOnlyCollections, Stats, UnconfirmedClaims,
    UnversionedIntake,
};
use crate::{
    Config, Follow, SourceError,
    cache::Cache,
    change_traces::{ChangeTraces, record_decision},
    failure_log::LogRate,
    source::PublisherSource,
    sync::SyncSignals,
};

/// Time to fetch a value that an event does not include.
pub(super) const FETCH_BUDGET: Duration = Duration::from_secs(2);
/// A remembered drop shows this much of its error: it may quote what was sent.
const MAX_ERROR_CHARS: usize = 300;

/// Applies events to the cache.
///
/// Any number of events may be taken at the same time, in any order: the revision of each decides.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Which collections are followed.
    pub(crate) config: Arc<Config>,
    /// Where changes are applied.
    pub(crate) cache: Arc<Cache>,
    /// Where a value is fetched that an event does not include.
    pub(crate) source: Arc<PublisherSource>,
    /// Counts each event by what became of it.
    pub(crate) stats: Arc<Stats>,
    /// Wakes the loop when an event leaves a gap, or cannot be placed.
    pub(crate) signals: Arc<SyncSignals>,
    /// Keeps what events said about revisions that no publisher confirmed.
    pub(crate) claims: Arc<UnconfirmedClaims>,
    /// Which collections have id-only events.
    pub(crate) id_only: Arc<IdOnlyCollections>,
    /// Takes the events without a revision.
    pub(crate) unversioned: Arc<UnversionedIntake>,
    /// Reports dropped events to the publisher.
    pub(crate) reports: Arc<DropReports>,
    /// Makes the spans of events, where they have a trace.
    pub(crate) traces: Arc<ChangeTraces>,
    /// Places for large events that are posted: they bound the memory of all bodies together, also
    /// in a service without a limit of its own.
    #[cfg(feature = "actix")]
    pub(crate) large_events: Semaphore,
}

/// The span of one event, from its arrival to its answer. Its collection, id and revision are
/// recorded as soon as they are known. It costs one comparison while its level is off.
pub(crate) fn event_span(source: EventSource) -> Span {
    tracing::debug_span!(
        "event",
        source = source.as_str(),
        collection = field::Empty,
        id = field::Empty,
        revision = field::Empty
    )
}

impl Intake {
    /// See [`Replica::receive_text`](crate::Replica::receive_text).
    pub(crate) async fn receive_text(
        &self,
        source: EventSource,
        data: &str,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        let outcome = self
            .take_text(source, data, expiration)
            .instrument(event_span(source))
            .await;
        self.report_drop(&outcome, data.as_bytes(), None);
        outcome
    }

    /// See [`Replica::receive`](crate::Replica::receive).
    pub(crate) async fn receive(
        &self,
        data: Value,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        let source = EventSource::Service;
        self.take_value(source, data, expiration)
            .instrument(event_span(source))
            .await
    }

    /// See [`Replica::receive_event`](crate::Replica::receive_event).
    pub(crate) async fn receive_event(
        &self,
        data: EventData,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        let source = EventSource::Service;
        self.take_event(source, data, expiration)
            .instrument(event_span(source))
            .await
    }

    /// Takes the JSON text of an event: by the fast path, else as a value.
    async fn take_text(
        &self,
        source: EventSource,
        data: &str,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        match self.parse_change(data.as_bytes()) {
            Some(change) => self.take_change(source, &change).await,
            None => match canonical::value(data.as_bytes()) {
                Ok(data) => self.take_value(source, data, expiration).await,
                Err(error) => self.drop_event("not-json", error),
            },
        }
    }

    /// Fast path: the data of an event that has a revision and is valid, parsed in a single pass.
    /// [`Intake::take_value`] knows what to do with all other data.
    ///
    /// `None` says nothing about the data: it may be valid in another form, or invalid.
    pub(super) fn parse_change(&self, data: &[u8]) -> Option<SignedChange> {
        contract::objects::from_slice(data)
            .ok()
            .filter(|signed| self.follows(signed))
    }

    /// Whether a collection is followed.
    fn followed(&self, collection: &CollectionName) -> bool {
        self.cache
            .view_guard()
            .root()
            .collection(collection)
            .is_some()
    }

    /// Whether the collection of a change is followed.
    pub(super) fn follows(&self, signed: &SignedChange) -> bool {
        self.followed(&signed.change.collection)
    }

    /// Takes the data of an event as it came.
    ///
    /// The checks have an order: that it is an object, that its collection is followed, else it is
    /// a success, and last the types of its members.
    pub(super) async fn take_value(
        &self,
        source: EventSource,
        data: Value,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        self.take_named(source, data, expiration, None).await
    }

    /// As [`Intake::take_value`], of an event whose id and source are known.
    pub(super) async fn take_named(
        &self,
        source: EventSource,
        mut data: Value,
        expiration: Option<DateTime<Utc>>,
        event: Option<&str>,
    ) -> EventOutcome {
        // Before the data is typed: data of a collection that is not followed may be of any form.
        let members = match &mut data {
            Value::Object(members) => members,
            Value::Null => return self.ignore(event, "has no data"),
            _other => return self.drop_named(event, "wrong-type", "the data is not a JSON object"),
        };
        let named = members
            .get("collection")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if let Err(ignored) = self.find_followed(named, event) {
            return ignored;
        }
        // The rules of the source document hold for events without a revision alone.
        if members.get("revision").is_none_or(Value::is_null) {
            let known = members
                .get("op")
                .is_some_and(|op| Operation::deserialize(op).is_ok());
            if !known {
                return self.ignore(event, "has no op that is known (requirement A23)");
            }
            // An empty value means that the subscriber reads the document (requirement A12).
            let given = members.get("configData").and_then(Value::as_object);
            if given.is_none_or(Map::is_empty) {
                members.remove("configData");
            }
        }
        match serde_json::from_value::<EventData>(data) {
            Ok(data)
                if data
                    .config_data
                    .as_ref()
                    .is_some_and(|config| !config.is_object()) =>
            {
                self.drop_named(event, "wrong-type", "configData is not a JSON object")
            }
            Ok(data) => self.take_event(source, data, expiration).await,
            Err(error) => self.drop_named(event, "wrong-type", error),
        }
    }

    /// The collection that an event names, if it is followed. Else the answer to the event, which is no
    /// error: the broker must not send the event again.
    pub(super) fn find_followed(
        &self,
        named: &str,
        event: Option<&str>,
    ) -> Result<CollectionName, EventOutcome> {
        let name = named.parse().ok();
        if let Some(name) = name.filter(|name| self.followed(name)) {
            return Ok(name);
        }
        if self.config.follow == Follow::Served {
            // The check-in says whether the publisher serves it.
            self.request_check();
            self.stats.count(|events| events.ignored += 1);
            return Err(EventOutcome::Success);
        }
        if named.is_empty() {
            return Err(self.ignore(event, "names no collection"));
        }
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            let named_event = Escaped(event.unwrap_or("without a name"));
            let named: String = named.chars().take(MAX_ERROR_CHARS).collect();
            tracing::warn!(
                collection = named,
                event,
                "the event {named_event} of the collection {named:?} is ignored: this replica does not follow the collection{left_out}"
            );
        }
        self.stats.count(|events| events.ignored += 1);
        Err(EventOutcome::Success)
    }

    /// Counts and logs an event that says nothing about a document. That is no error: the source
    /// document answers such an event like one that was applied (requirement A23, A25).
    fn ignore(&self, event: Option<&str>, why: &str) -> EventOutcome {
        let named = Escaped(event.unwrap_or("without a name"));
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(event, "the event {named} is ignored: it {why}{left_out}");
        }
        self.stats.count(|events| events.ignored += 1);
        EventOutcome::Success
    }

    /// Takes valid data: as a change when it has a revision, else by the rules for events without.
    async fn take_event(
        &self,
        source: EventSource,
        data: EventData,
        expiration: Option<DateTime<Utc>>,
    ) -> EventOutcome {
        if let Some(signed) = SignedChange::from_event(&data) {
            return self.take_change(source, &signed).await;
        }
        // It names no position, so it has nothing that a signature could be of.
        if self.keys(source).is_some() {
            return self.refuse(&data.collection, &data.id, UnprovenEvent::Unsigned);
        }
        // Without a revision no order can be known, so other rules apply.
        record_document(&data.collection, &data.id);
        match self.unversioned.take(&data, expiration).await {
            Ok(()) => EventOutcome::Success,
            Err(error) => self.retry(&data.collection, &data.id, &error),
        }
    }

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

    /// The keys that an event of this source is checked with, if any. The live feed comes over a
    /// connection to a publisher, as every answer of it.
    fn keys(&self, source: EventSource) -> Option<&EventKeys> {
        let keys = self.config.event_keys.as_ref();
        keys.filter(|_keys| source != EventSource::Feed)
    }

    /// An event that nobody has to have signed says that something may have changed: the heads are
    /// asked for. Where events are signed, all such events in a check-in interval lead to one
    /// question.
    pub(super) fn request_check(&self) {
        if self.config.event_keys.is_some() {
            self.signals.unproven_seen();
        } else {
            self.signals.request_check_in();
        }
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

/// Names the document in the span of the event.
pub(super) fn record_document(collection: &CollectionName, id: &DocumentId) {
    if tracing::enabled!(Level::DEBUG) {
        let span = Span::current();
        span.record("collection", field::display(collection));
        span.record("id", field::display(id));
    }
}

/// Names the revision in the span of the event.
fn record_revision(change: &ReceivedChange) {
    if tracing::enabled!(Level::DEBUG) {
        Span::current().record("revision", change.revision);
    }
}
