//! Receives events without end: connect, receive, connect again.
//!
//! Redis may be unavailable for a long time, so the waits between attempts grow to about a second,
//! with jitter: a thousand replicas do not reconnect at the same moment. The listener reports when
//! it is connected and when it is not; it cannot know what was published in between.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use async_stream::stream;
use futures_util::{Stream, StreamExt};
use tokio::time::sleep;

use crate::{
    Backoff, BrokerError, Cursors, Delivery, ReceivedEvent, RedisConfig, Subscription, pubsub,
    streams,
};

/// A connection that lasted this long counts as good: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(5);

/// A report of the listener.
#[derive(Debug)]
pub enum BrokerEvent {
    /// Connected: nothing is missed from now on. Events that were published before, and stand after
    /// these positions or have none, may have been missed.
    Connected(Cursors),
    /// Something arrived.
    Received(ReceivedEvent),
    /// The connection is lost; nothing arrives until the next `Connected`.
    Disconnected(BrokerError),
}

/// An endless stream of reports, which alternates between connected and disconnected. Dropping it
/// closes the connection.
///
/// `cursors` are the positions to start at, where events come by
/// streams.
pub fn listen(
    redis: RedisConfig,
    subscription: Subscription,
    mut cursors: Cursors,
) -> impl Stream<Item = BrokerEvent> + Send {
    stream! {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let error = match connect(&redis, &subscription, &cursors).await {
                Ok((positions, events)) => {
                    cursors.clone_from(&positions);
                    yield BrokerEvent::Connected(positions);
                    let mut events = pin!(events);
                    loop {
                        match events.next().await.unwrap_or(Err(BrokerError::Closed)) {
                            Ok(received) => {
                                note(&mut cursors, &received);
                                yield BrokerEvent::Received(received);
                            }
                            Err(error) => break error,
                        }
                    }
                }
                Err(error) => error,
            };
            yield BrokerEvent::Disconnected(error);
            // A connection that breaks at once must not be opened in a tight loop.
            if begun.elapsed() > GOOD {
                backoff = Backoff::default();
            }
            sleep(backoff.next_wait()).await;
        }
    }
}

/// Connects by the delivery of the configuration. Returns the positions at which reading begins
/// (none with Pub/Sub), and what arrives from there until the first error.
async fn connect(
    redis: &RedisConfig,
    subscription: &Subscription,
    cursors: &Cursors,
) -> Result<
    (
        Cursors,
        impl Stream<Item = Result<ReceivedEvent, BrokerError>> + Send + use<>,
    ),
    BrokerError,
> {
    let RedisConfig {
        address,
        names,
        delivery,
    } = redis;
    Ok(match delivery {
        Delivery::PubSub => (
            Cursors::new(),
            pubsub::subscribe(address, names, subscription)
                .await?
                .left_stream(),
        ),
        Delivery::Streams => {
            let (positions, events) =
                streams::read(address, names, subscription, cursors.clone()).await?;
            (positions, events.right_stream())
        }
    })
}

/// Keeps the position of what arrived, so that the next connection continues after it.
fn note(cursors: &mut Cursors, received: &ReceivedEvent) {
    if let ReceivedEvent::Event {
        collection,
        cursor: Some(cursor),
        ..
    }
    | ReceivedEvent::Lost { collection, cursor } = received
    {
        cursors.insert(collection.clone(), cursor.clone());
    }
}
