//! What becomes of an event: the one way of events into a replica, from whatever source.
//!
//! An event is a report of a change, not an order. Its change is applied when it can be; when the
//! value is missing, the change log of the publisher is asked. No event changes the history that is
//! followed, and the answer to an event does not depend on any reader or handler.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use contract::{
    CollectionName, DocumentId, EventData, Operation, canonical, signature::UnprovenEvent,
    text::Escaped,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use state::SignedChange;
#[cfg(feature = "actix")]
use tokio::sync::Semaphore;
use tracing::{Instrument, Level, Span, field};

use super::{
    DropReports, EventKeys, EventOutcome, EventSource, IdOnlyCollections, Stats, UnconfirmedClaims,
    UnversionedIntake, without_effect::MAX_ERROR_CHARS,
};
use crate::{
    Config, Follow, cache::Cache, change_traces::ChangeTraces, failure_log::LogRate,
    source::PublisherSource, sync::SyncSignals,
};

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

    /// The keys that an event of this source is checked with, if any. The live feed comes over a
    /// connection to a publisher, as every answer of it.
    pub(super) fn keys(&self, source: EventSource) -> Option<&EventKeys> {
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
}

/// Names the document in the span of the event.
pub(super) fn record_document(collection: &CollectionName, id: &DocumentId) {
    if tracing::enabled!(Level::DEBUG) {
        let span = Span::current();
        span.record("collection", field::display(collection));
        span.record("id", field::display(id));
    }
}
