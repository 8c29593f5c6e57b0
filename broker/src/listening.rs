//! Hearing events for as long as anyone listens: connect, hear, connect again.
//!
//! RedisConfig may be away for long, so the waits between attempts grow to about a second, with jitter: a
//! thousand replicas do not come back in the same instant. It says when it hears and when it does
//! not; what was missed in between it cannot know.

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

/// A connection that stood for so long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(5);

/// What a listener is told.
#[derive(Debug)]
pub enum BrokerEvent {
    /// From now on nothing is missed. What was published before and is behind these places, or has
    /// none, may have been.
    Connected(Cursors),
    /// Something came.
    Received(ReceivedEvent),
    /// Nothing comes until it stands again.
    Disconnected(BrokerError),
}

/// Signals without end. `cursors` are the places to begin at, where events come by streams.
pub fn listen(
    redis: RedisConfig,
    wanted: Subscription,
    mut cursors: Cursors,
) -> impl Stream<Item = BrokerEvent> + Send {
    stream! {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let error = match connect(&redis, &wanted, &cursors).await {
                Ok((places, events)) => {
                    cursors.clone_from(&places);
                    yield BrokerEvent::Connected(places);
                    let mut events = pin!(events);
                    loop {
                        match events.next().await.unwrap_or(Err(BrokerError::Closed)) {
                            Ok(heard) => {
                                note(&mut cursors, &heard);
                                yield BrokerEvent::Received(heard);
                            }
                            Err(error) => break error,
                        }
                    }
                }
                Err(error) => error,
            };
            yield BrokerEvent::Disconnected(error);
            if begun.elapsed() > GOOD {
                backoff = Backoff::default();
            }
            sleep(backoff.next_wait()).await;
        }
    }
}

async fn connect(
    redis: &RedisConfig,
    wanted: &Subscription,
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
            pubsub::subscribe(address, names, wanted)
                .await?
                .left_stream(),
        ),
        Delivery::Streams => {
            let (places, events) = streams::read(address, names, wanted, cursors.clone()).await?;
            (places, events.right_stream())
        }
    })
}

fn note(cursors: &mut Cursors, heard: &ReceivedEvent) {
    if let ReceivedEvent::Event {
        collection,
        cursor: Some(cursor),
        ..
    }
    | ReceivedEvent::Lost { collection, cursor } = heard
    {
        cursors.insert(collection.clone(), cursor.clone());
    }
}
