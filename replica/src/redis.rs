//! Events straight from Redis: connect, take what comes, connect again.
//!
//! Redis forgets what nobody was there to hear, so each time a subscription stands, heads are read and what is missing is
//! brought. What becomes of an event is decided where all events are ([`Replica::receive`]).

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use broker::{Backoff, Delivery, Error, Heard, pubsub, streams};
use futures_util::{FutureExt, Stream, StreamExt, stream::FuturesUnordered};
use serde_json::Value;
use tokio::time::sleep;

use crate::{Answer, Events, Replica};

/// Events that may wait for a value at once. Beyond that they are let go, and what they said is brought by the feed: events
/// must be taken as fast as they come.
const UNDER_WAY: usize = 64;
/// Largest event that is read: as large as a sidecar would bring one.
const MAX_BODY: usize = 4 << 20;
/// Attempts at an event of an unversioned collection, which nothing else would bring soon.
const ATTEMPTS: u32 = 3;
const AGAIN: Duration = Duration::from_millis(100);
/// A connection that stood for so long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(5);

impl Replica {
    /// Hears events for as long as it is polled; for ever silent where they do not come from Redis.
    pub(crate) async fn listen(&self) {
        let Events::Redis(redis) = &self.config().events else { return std::future::pending().await };
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let error = self.hear_from(redis).await;
            self.reachable(Some(&error));
            if begun.elapsed() > GOOD {
                backoff = Backoff::default();
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Connects and hears until that ends.
    async fn hear_from(&self, redis: &broker::Redis) -> Error {
        let (names, collections) = (redis.names.clone(), &self.config().collections);
        let ended = match redis.delivery {
            Delivery::PubSub => {
                let wanted = pubsub::Wanted::Collections(collections.clone());
                pubsub::subscribe(&redis.address, names, &wanted).await.map(StreamExt::left_stream)
            }
            Delivery::Streams => {
                let cursors = self.journal().cursors.clone();
                let reading = streams::read(&redis.address, &names, collections, cursors).await;
                reading.map(|(cursors, events)| {
                    self.journal().cursors = cursors;
                    events.right_stream()
                })
            }
        };
        match ended {
            Ok(events) => {
                self.reachable(None);
                self.asked().reading.notify_one();
                self.hear(events).await
            }
            Err(error) => error,
        }
    }

    async fn hear(&self, events: impl Stream<Item = Result<Heard, Error>>) -> Error {
        let mut events = pin!(events);
        let mut under_way = FuturesUnordered::new();
        loop {
            let heard = tokio::select! {
                heard = events.next() => heard.unwrap_or(Err(Error::Closed)),
                Some(()) = under_way.next() => continue,
                // There were changes and no event: whoever is at the other end is not the one to listen to.
                () = self.asked().deaf.notified() => Err(Error::Closed),
            };
            let (collection, id, body, cursor) = match heard {
                Ok(Heard::Event { collection, id, body, cursor }) => (collection, id, body, cursor),
                Ok(Heard::Lost { collection, cursor }) => {
                    tracing::warn!(%collection, "the stream of {collection} began anew, what it had may be lost: heads are read");
                    self.journal().cursors.insert(collection, cursor);
                    self.asked().reading.notify_one();
                    continue;
                }
                Err(error) => return error,
            };
            // What can be decided at once is, in the order in which it came.
            let mut taking = Box::pin(self.take(collection.clone(), id, body));
            if taking.as_mut().now_or_never().is_none() {
                if under_way.len() < UNDER_WAY {
                    under_way.push(taking);
                } else {
                    self.asked().reading.notify_one();
                }
            }
            // What waits for the rest of its set is not kept on disk, so from there it would have to come again.
            let staged = self.view().root().collection(&collection).is_some_and(|held| held.staged() > 0);
            if let Some(cursor) = cursor.filter(|_cursor| !staged) {
                self.journal().cursors.insert(collection, cursor);
            }
        }
    }

    /// Takes the bare data of an event. What it does not say is said by its channel (seeds.md A11).
    async fn take(&self, collection: contract::CollectionName, id: Option<contract::DocumentId>, body: Vec<u8>) {
        if body.len() > MAX_BODY {
            self.dropped("too-large", format_args!("the event is larger than {MAX_BODY} bytes"));
            return;
        }
        for _attempt in 0..ATTEMPTS {
            let mut data: Value = match serde_json::from_slice(&body) {
                Ok(data) => data,
                Err(error) => {
                    self.dropped("not-json", error);
                    return;
                }
            };
            if let Value::Object(members) = &mut data {
                members.entry("collection").or_insert_with(|| collection.as_str().into());
                if let Some(id) = &id {
                    members.entry("id").or_insert_with(|| id.as_str().into());
                }
            }
            match self.receive(data, None).await {
                Answer::Retry { .. } => sleep(AGAIN).await,
                _done => return,
            }
        }
        self.asked().reading.notify_one();
    }

    /// Remembers whether Redis can be reached, and logs when that changes.
    fn reachable(&self, error: Option<&Error>) {
        let mut journal = self.journal();
        match error {
            Some(error) if !journal.away => tracing::warn!("no events from Redis until it answers again: {error}"),
            Some(error) => tracing::debug!("still no events from Redis: {error}"),
            None if journal.away => tracing::info!("events come from Redis again"),
            None => tracing::info!("events come from Redis"),
        }
        journal.away = error.is_some();
    }
}
