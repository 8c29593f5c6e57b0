//! Events from Redis, without a sidecar: connect, receive, connect again.
//!
//! Redis does not keep events for a replica that was disconnected, so after each connection the
//! replica checks in and catches up. It never decides what becomes of a change: see
//! [`Intake`].

use std::{pin::pin, sync::Arc, time::Duration};

use broker::{BrokerEvent, ReceivedEvent, Subscription, listen};
use contract::{CollectionName, DocumentId, canonical};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde_json::Value;
use state::CollectionState;
use tokio::time::sleep;
use tracing::Instrument;

use super::{
    EventOutcome, EventSource, Intake, IntakeConnection, id_only::is_id_only, receive::event_span,
};
use crate::{Events, persist::StreamCursors};

/// Events that may wait for a value at once. Further ones are abandoned, and catch-up brings their
/// changes: events must be received as fast as they come.
const MAX_WAITING: usize = 64;
/// Largest event that is read: the limit of a sidecar.
const MAX_BODY: usize = 4 << 20;
/// Attempts at an event of an unversioned collection, which nothing else would bring soon.
const ATTEMPTS: u32 = 3;
/// Wait between these attempts.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// Receives the events of Redis.
#[derive(Debug)]
pub(crate) struct RedisIntake {
    /// Decides what becomes of each event.
    pub(crate) intake: Arc<Intake>,
    /// Up to where each stream was read.
    pub(crate) cursors: Arc<StreamCursors>,
    /// Notes and logs whether Redis is connected.
    pub(crate) connection: IntakeConnection,
}

impl RedisIntake {
    /// Receives events and never ends. It does nothing where events have another source.
    pub(crate) async fn run(&self) {
        let Events::Redis(redis) = &self.intake.config.events else {
            return std::future::pending().await;
        };
        let cache = &self.intake.cache;
        // Before a publisher was asked there may be nothing to listen to.
        if !cache.until_followed().await {
            return std::future::pending().await;
        }
        // A new connection is of the collections that are followed now, and reads on from the
        // newest cursors.
        let connect = || {
            let view = cache.view();
            let followed = view.root().collections().map(|(name, _held)| name.clone());
            let subscription = Subscription::Collections(followed.collect());
            listen((**redis).clone(), subscription, self.cursors.snapshot())
        };
        let mut received = pin!(connect());
        let mut waiting = FuturesUnordered::new();
        loop {
            let event = tokio::select! {
                event = received.next() => event,
                Some(()) = waiting.next() => continue,
                // Changes come and events do not: the other end may be the wrong one.
                () = self.intake.signals.reconnect() => {
                    received.set(connect());
                    continue;
                }
            };
            match event {
                Some(BrokerEvent::Connected(cursors)) => {
                    self.connection.connected();
                    // Events of before may be lost: the check-in finds out what is missing.
                    self.cursors.insert_missing(cursors);
                    self.intake.signals.request_check_in();
                }
                Some(BrokerEvent::Received(ReceivedEvent::Event {
                    collection,
                    id,
                    body,
                    cursor,
                })) => {
                    // What can be decided at once is decided in the order in which it came.
                    let mut taking = Box::pin(
                        self.take_body(collection.clone(), id, body)
                            .instrument(event_span(EventSource::Redis)),
                    );
                    if taking.as_mut().now_or_never().is_none() {
                        // It waits for a publisher; the events behind it do not wait with it.
                        if waiting.len() < MAX_WAITING {
                            waiting.push(taking);
                        } else {
                            self.abandon(&collection);
                        }
                    }
                    // After the decision: a gap that the event leaves holds the cursor back.
                    self.advance_cursor(collection, cursor);
                }
                // The stream was trimmed beyond the cursor: only the heads tell what is missing.
                Some(BrokerEvent::Received(ReceivedEvent::Lost { collection, cursor })) => {
                    tracing::warn!(%collection, "the stream of {collection} may have lost events: the replica checks in");
                    self.cursors.set(collection, cursor);
                    self.intake.signals.request_check_in();
                }
                Some(BrokerEvent::Received(ReceivedEvent::Refused { collection, error })) => {
                    tracing::warn!(%collection, "the stream of {collection} cannot be read, its changes come with the check-ins: {error}");
                }
                Some(BrokerEvent::Disconnected(error)) => self
                    .connection
                    .disconnected(&format_args!("Redis at {:?}: {error}", redis.address)),
                None => return,
            }
        }
    }

    /// Remembers up to where a stream was read, unless a change before that is missing, or waits
    /// for the rest of its set: neither is saved on disk, so both would have to come again.
    fn advance_cursor(&self, collection: CollectionName, cursor: Option<String>) {
        let Some(cursor) = cursor else { return };
        // A collection that is not followed has nothing that could be missing.
        let complete = self
            .intake
            .cache
            .view_guard()
            .root()
            .collection(&collection)
            .is_none_or(|held| held.known() <= held.watermark() && held.staged() == 0);
        if complete {
            self.cursors.set(collection, cursor);
        }
    }

    /// An event was not applied. Where revisions are counted, the gap that it leaves is known and
    /// is caught up.
    fn abandon(&self, collection: &CollectionName) {
        // Without revisions nothing shows the gap, so the check-in reads the list again.
        let versioned = self
            .intake
            .cache
            .view_guard()
            .root()
            .collection(collection)
            .is_some_and(CollectionState::versioned);
        if !versioned {
            self.intake.signals.request_check_in();
        }
    }

    /// Takes the bare data of an event.
    ///
    /// An event that cannot be applied is tried up to [`ATTEMPTS`] times, then abandoned; one that
    /// can never succeed is dropped at once.
    async fn take_body(&self, collection: CollectionName, id: Option<DocumentId>, body: Vec<u8>) {
        // The same limit as behind a sidecar: a change is accepted from both or from none.
        if body.len() > MAX_BODY {
            let outcome = self.intake.drop_event(
                "too-large",
                format_args!("the event is larger than {MAX_BODY} bytes"),
            );
            self.intake.report_drop(&outcome, &body, Some(&collection));
            return;
        }
        // Redis does not send an event again, so the attempts are made here.
        for _attempt in 0..ATTEMPTS {
            let outcome = match self.intake.parse_change(&body) {
                Some(change) => self.intake.take_change(EventSource::Redis, &change).await,
                None => match canonical::value(&body) {
                    Ok(data) if is_id_only(&data) => {
                        self.intake
                            .take_id_only(collection.as_str(), data, None, None)
                            .await
                    }
                    Ok(data) => {
                        let data = with_channel(data, &collection, id.as_ref());
                        self.intake.take_value(EventSource::Redis, data, None).await
                    }
                    Err(error) => self.intake.drop_event("not-json", error),
                },
            };
            self.intake.report_drop(&outcome, &body, Some(&collection));
            match outcome {
                EventOutcome::Retry { .. } => sleep(RETRY_WAIT).await,
                EventOutcome::Success | EventOutcome::Drop { .. } => return,
            }
        }
        self.abandon(&collection);
    }
}

/// The data of an event. Its channel gives the collection and the id that the data does not have
/// (requirement A11).
pub(crate) fn with_channel(
    mut data: Value,
    collection: &CollectionName,
    id: Option<&DocumentId>,
) -> Value {
    if let Value::Object(members) = &mut data {
        members
            .entry("collection")
            .or_insert_with(|| collection.as_str().into());
        if let Some(id) = id {
            members.entry("id").or_insert_with(|| id.as_str().into());
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use broker::settings::RedisSettings;
    use contract::fleet::IntakeFault;

    use super::*;
    use crate::{
        Replica,
        intake::Stats,
        tests::{name, settings},
    };

    #[test]
    fn changes_that_the_feed_brought_during_an_outage_are_no_fault_of_the_next_connection() {
        let redis = RedisSettings {
            url: "",
            database: "",
            prefix: "",
            delivery: "",
        }
        .check(|_name, _what| ());
        let mut config = settings(Vec::new());
        config.events = Events::Redis(Box::new(redis.expect("the defaults")));
        let replica = Replica::new(config).expect("a client");
        let stats: &Arc<Stats> = &replica.intake().stats;
        let connection = IntakeConnection::new(Arc::clone(stats));
        let by_feed = |revisions: std::ops::Range<u64>| {
            revisions.for_each(|revision| stats.delivered_by_feed(&name("A"), revision));
        };
        let intake = || replica.status().intake;
        connection.disconnected(&broker::BrokerError::Closed);
        by_feed(1..100);
        assert_eq!(intake(), Some(IntakeFault::Disconnected));
        connection.connected();
        assert_eq!(
            intake(),
            None,
            "events that nothing could receive are no fault of the new connection"
        );
        by_feed(100..200);
        assert_eq!(intake(), Some(IntakeFault::NotReceiving));
    }
}
