//! Events straight from Redis: connect, take what comes, connect again.
//!
//! Redis forgets what nobody was there to hear, so each time a subscription stands, heads are read
//! and what is missing is brought. What becomes of an event is decided where all events are
//! ([`Replica::receive`]).

use std::{pin::pin, time::Duration};

use broker::{BrokerEvent, ReceivedEvent, Subscription, listen};
use contract::{CollectionName, DocumentId};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde_json::Value;
use tokio::time::sleep;

use crate::{Answer, Events, RawCollection as Collection, Replica};

/// Events that may wait for a value at once. Beyond that they are let go, and what they said is
/// brought by the feed: events must be taken as fast as they come.
const UNDER_WAY: usize = 64;
/// Largest event that is read: as large as a sidecar would bring one.
const MAX_BODY: usize = 4 << 20;
/// Attempts at an event of an unversioned collection, which nothing else would bring soon.
const ATTEMPTS: u32 = 3;
const AGAIN: Duration = Duration::from_millis(100);

impl Replica {
    /// Hears events for as long as it is polled; for ever silent where they do not come from Redis.
    pub(crate) async fn listen(&self) {
        let Events::Redis(redis) = &self.config().events else {
            return std::future::pending().await;
        };
        let wanted = Subscription::Collections(self.config().collections.clone());
        let connect = || {
            listen(
                (**redis).clone(),
                wanted.clone(),
                self.journal().cursors.clone(),
            )
        };
        let mut signals = pin!(connect());
        let mut under_way = FuturesUnordered::new();
        loop {
            let signal = tokio::select! {
                signal = signals.next() => signal,
                Some(()) = under_way.next() => continue,
                // There were changes and no event: whoever is at the other end is not the one to listen to.
                () = self.asked().deaf.notified() => {
                    signals.set(connect());
                    continue;
                }
            };
            match signal {
                Some(BrokerEvent::Connected(cursors)) => {
                    self.reachable(None);
                    let mut journal = self.journal();
                    for (collection, cursor) in cursors {
                        // One that was held back stays: the listener has gone on, the disk has not.
                        journal.cursors.entry(collection).or_insert(cursor);
                    }
                    drop(journal);
                    self.asked().reading.notify_one();
                }
                Some(BrokerEvent::Received(ReceivedEvent::Event {
                    collection,
                    id,
                    body,
                    cursor,
                })) => {
                    // What can be decided at once is, in the order in which it came.
                    let mut taking = Box::pin(self.take_body(collection.clone(), id, body));
                    if taking.as_mut().now_or_never().is_none() {
                        if under_way.len() < UNDER_WAY {
                            under_way.push(taking);
                        } else {
                            self.let_go(&collection);
                        }
                    }
                    self.read_up_to(collection, cursor);
                }
                Some(BrokerEvent::Received(ReceivedEvent::Lost { collection, cursor })) => {
                    tracing::warn!(%collection, "the stream of {collection} may have lost events: heads are read");
                    self.journal().cursors.insert(collection, cursor);
                    self.asked().reading.notify_one();
                }
                Some(BrokerEvent::Received(ReceivedEvent::Refused { collection, error })) => {
                    tracing::warn!(%collection, "the stream of {collection} cannot be read: {error}");
                }
                Some(BrokerEvent::Disconnected(error)) => self.reachable(Some(&error)),
                None => return,
            }
        }
    }

    /// Remembers up to where a stream was read. Not while anything before it is missing, or waits
    /// for the rest of its set: neither is kept on disk, so it would have to come again.
    fn read_up_to(&self, collection: CollectionName, cursor: Option<String>) {
        let whole = |held: &Collection| held.known() <= held.watermark() && held.staged() == 0;
        let Some(cursor) = cursor else { return };
        if self.view().root().collection(&collection).is_none_or(whole) {
            self.journal().cursors.insert(collection, cursor);
        }
    }

    /// An event was not taken. Where revisions are counted the gap that it leaves is known and
    /// heals.
    fn let_go(&self, collection: &CollectionName) {
        if self
            .view()
            .root()
            .collection(collection)
            .is_none_or(|held| !held.versioned())
        {
            self.asked().reading.notify_one();
        }
    }

    /// Takes the bare data of an event.
    async fn take_body(&self, collection: CollectionName, id: Option<DocumentId>, body: Vec<u8>) {
        if body.len() > MAX_BODY {
            self.dropped(
                "too-large",
                format_args!("the event is larger than {MAX_BODY} bytes"),
            );
            return;
        }
        for _attempt in 0..ATTEMPTS {
            let answer = match self.plain(&body) {
                Some(hint) => self.take(&hint).await,
                None => match completed(&body, &collection, id.as_ref()) {
                    Ok(data) => self.receive(data, None).await,
                    Err(error) => self.dropped("not-json", error),
                },
            };
            match answer {
                Answer::Retry { .. } => sleep(AGAIN).await,
                _done => return,
            }
        }
        self.let_go(&collection);
    }
}

/// The data of an event. What it does not say is said by its channel (requirement A11).
pub(crate) fn completed(
    body: &[u8],
    collection: &CollectionName,
    id: Option<&DocumentId>,
) -> Result<Value, serde_json::Error> {
    let mut data: Value = serde_json::from_slice(body)?;
    if let Value::Object(members) = &mut data {
        members
            .entry("collection")
            .or_insert_with(|| collection.as_str().into());
        if let Some(id) = id {
            members.entry("id").or_insert_with(|| id.as_str().into());
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use broker::settings::RedisSettings;
    use contract::fleet::IntakeFault;

    use super::*;
    use crate::tests::{name, settings};

    #[test]
    fn an_outage_makes_nobody_deaf() {
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
        let by_feed = |revisions: std::ops::Range<u64>| {
            revisions.for_each(|revision| replica.journal().arrivals.by_feed(&name("A"), revision));
        };
        let intake = || replica.status().intake;
        replica.reachable(Some(&broker::BrokerError::Closed));
        by_feed(1..100);
        assert_eq!(intake(), Some(IntakeFault::Disconnected));
        replica.reachable(None);
        assert_eq!(
            intake(),
            None,
            "what nobody could hear says nothing of the new connection"
        );
        by_feed(100..200);
        assert_eq!(intake(), Some(IntakeFault::NotReceiving));
    }
}
