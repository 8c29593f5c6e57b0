//! Hearing events for as long as anyone listens: connect, hear, connect again.
//!
//! Redis may be away for long, so the waits between attempts grow to about a second, with jitter: a
//! thousand replicas do not come back in the same instant. It says when it hears and when it does
//! not; what was missed in between it cannot know.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use async_stream::stream;
use futures_util::{Stream, StreamExt};
use tokio::time::sleep;

use crate::{Backoff, Cursors, Delivery, Error, Heard, Redis, Wanted, pubsub, streams};

/// A connection that stood for so long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(5);

/// What a listener is told.
#[derive(Debug)]
pub enum Signal {
    /// From now on nothing is missed. What was published before and is behind these places, or has
    /// none, may have been.
    Stands(Cursors),
    /// Something came.
    Heard(Heard),
    /// Nothing comes until it stands again.
    Away(Error),
}

/// Signals without end. `cursors` are the places to begin at, where events come by streams.
pub fn listen(
    redis: Redis,
    wanted: Wanted,
    mut cursors: Cursors,
) -> impl Stream<Item = Signal> + Send {
    stream! {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let error = match connect(&redis, &wanted, &cursors).await {
                Ok((places, events)) => {
                    cursors.clone_from(&places);
                    yield Signal::Stands(places);
                    let mut events = pin!(events);
                    loop {
                        match events.next().await.unwrap_or(Err(Error::Closed)) {
                            Ok(heard) => {
                                note(&mut cursors, &heard);
                                yield Signal::Heard(heard);
                            }
                            Err(error) => break error,
                        }
                    }
                }
                Err(error) => error,
            };
            yield Signal::Away(error);
            if begun.elapsed() > GOOD {
                backoff = Backoff::default();
            }
            sleep(backoff.next_wait()).await;
        }
    }
}

async fn connect(
    redis: &Redis,
    wanted: &Wanted,
    cursors: &Cursors,
) -> Result<
    (
        Cursors,
        impl Stream<Item = Result<Heard, Error>> + Send + use<>,
    ),
    Error,
> {
    let Redis {
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

fn note(cursors: &mut Cursors, heard: &Heard) {
    if let Heard::Event {
        collection,
        cursor: Some(cursor),
        ..
    }
    | Heard::Lost { collection, cursor } = heard
    {
        cursors.insert(collection.clone(), cursor.clone());
    }
}
