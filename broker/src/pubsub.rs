//! Events by Pub/Sub: whoever is subscribed when an event is published gets it, and nobody else
//! (requirement A9).
//!
//! A silent connection and a dead one look the same, so it is asked every two seconds whether it
//! lives. What the client has read and nobody has taken yet waits in memory without bound: take
//! events as they come.

use std::time::Duration;

use async_stream::try_stream;
use futures_util::{Stream, StreamExt};
use redis::{Msg, Value, aio::PubSubSink};
use tokio::time::{Instant, interval_at, timeout};

use crate::{ANSWER, Address, BrokerError, Names, ReceivedEvent, Subscription};

const PING_EVERY: Duration = Duration::from_secs(2);

/// Subscribes. When this is answered the subscription stands: whatever is published from now on
/// arrives, until the stream ends with an error.
///
/// # Errors
/// When that fails or takes too long.
pub async fn subscribe(
    address: &Address,
    names: &Names,
    wanted: &Subscription,
) -> Result<impl Stream<Item = Result<ReceivedEvent, BrokerError>> + Send + use<>, BrokerError> {
    let (mut sink, mut messages) = address.listen().await?.split();
    let subscribing = async {
        match wanted {
            Subscription::Collections(all) => {
                let patterns: Vec<_> = all
                    .iter()
                    .flat_map(|collection| names.patterns(collection))
                    .collect();
                sink.psubscribe(patterns).await
            }
            Subscription::Document(collection, id) => {
                sink.subscribe(&names.document_channels(collection, id)[..])
                    .await
            }
        }
    };
    timeout(ANSWER, subscribing)
        .await
        .map_err(|_late| BrokerError::Late)??;
    alive(&mut sink).await?;
    let names = names.clone();
    Ok(try_stream! {
        let mut due = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        loop {
            let message = tokio::select! {
                message = messages.next() => Some(message.ok_or(BrokerError::Closed)),
                _ = due.tick() => None,
            };
            match message {
                Some(message) => if let Some(heard) = heard(&names, &message?) {
                    yield heard;
                },
                None => alive(&mut sink).await?,
            }
        }
    })
}

/// Any answer is a sign of life, also that it is not allowed to ask.
async fn alive(sink: &mut PubSubSink) -> Result<(), BrokerError> {
    match timeout(ANSWER, sink.ping::<Value>()).await {
        Ok(Err(error)) if error.is_io_error() => Err(error.into()),
        Ok(_answered) => Ok(()),
        Err(_late) => Err(BrokerError::Late),
    }
}

/// `None` when the message concerns nothing that was asked for.
fn heard(names: &Names, message: &Msg) -> Option<ReceivedEvent> {
    let channel = names.read(message.get_channel_name())?;
    // `X*` also matches `XY`: what came for another collection comes by its own pattern as well.
    if message.from_pattern() {
        let pattern: String = message.get_pattern().ok()?;
        names
            .patterns(&channel.collection)
            .contains(&pattern)
            .then_some(())?;
    }
    let body = message.get_payload_bytes().to_vec();
    Some(ReceivedEvent::Event {
        collection: channel.collection,
        id: channel.id,
        body,
        cursor: None,
    })
}
