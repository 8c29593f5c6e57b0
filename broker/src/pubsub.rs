//! Events by Pub/Sub: a replica that is subscribed when an event is published receives it, and no
//! other (requirement A9).
//!
//! A silent connection and a dead one look the same, so the connection is probed every two seconds.
//! The client buffers what was read and not yet taken without a bound: take events as they arrive.

use std::time::Duration;

use async_stream::try_stream;
use futures_util::{Stream, StreamExt};
use redis::{Msg, Value, aio::PubSubSink};
use tokio::time::{Instant, interval_at, timeout};

use crate::{ANSWER, Address, BrokerError, Names, ReceivedEvent, Subscription};

/// Interval at which the connection is probed.
const PING_EVERY: Duration = Duration::from_secs(2);

/// Subscribes to the channels of a subscription, in both forms of their names. When this returns, the subscription is active: every event that is published from
/// now on arrives, until the stream ends with an error.
///
/// # Errors
/// When it fails or takes too long.
pub async fn subscribe(
    address: &Address,
    names: &Names,
    subscription: &Subscription,
) -> Result<impl Stream<Item = Result<ReceivedEvent, BrokerError>> + Send + use<>, BrokerError> {
    let (mut sink, mut messages) = address.listen().await?.split();
    let subscribing = async {
        match subscription {
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
    // One time limit for all patterns: they are sent in one command.
    timeout(ANSWER, subscribing)
        .await
        .map_err(|_late| BrokerError::Timeout)??;
    // Redis answers in order, so the answer to PING comes after the subscriptions are active.
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
                Some(message) => if let Some(received) = received(&names, &message?) {
                    yield received;
                },
                None => alive(&mut sink).await?,
            }
        }
    })
}

/// Any answer shows that the connection works, also the answer that PING is not allowed.
async fn alive(sink: &mut PubSubSink) -> Result<(), BrokerError> {
    match timeout(ANSWER, sink.ping::<Value>()).await {
        Ok(Err(error)) if error.is_io_error() => Err(error.into()),
        Ok(_answered) => Ok(()),
        Err(_late) => Err(BrokerError::Timeout),
    }
}

/// The event of a message; `None` when the message belongs to no subscription.
fn received(names: &Names, message: &Msg) -> Option<ReceivedEvent> {
    let channel = names.read(message.get_channel_name())?;
    // `X*` also matches `XY`; a message of another collection arrives by its own pattern as well.
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
