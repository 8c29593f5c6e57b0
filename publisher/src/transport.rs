//! Transports: how an event reaches the subscribers.
//!
//! Every transport carries the same events and may carry one twice. None of them is trusted to
//! carry all: a replica that misses an event catches up from the change log.

use contract::{Change, fleet};
use futures_util::future::join_all;

use original::OriginalEvent;

pub mod cloudevent;
pub mod confirm;
pub mod dapr;
pub mod direct;
pub mod original;
pub mod redis;
pub mod signer;

/// The transport that `AURA_CONFIGURATION_EVENTS_MANAGER` selects (requirement A2).
#[derive(Debug)]
pub enum Transport {
    /// `DAPR`: through the Dapr sidecar.
    Dapr(Box<dapr::DaprTransport>),
    /// `LOCAL`: posted to subscribers that are known by address.
    Direct(direct::DirectTransport),
    /// `REDIS`: through Redis, without a sidecar.
    Redis(Box<redis::RedisTransport>),
}

impl Transport {
    /// The subscribers that get events, where this process knows them.
    pub fn subscribers(&self) -> Option<direct::SubscriberRegistry> {
        match self {
            Self::Dapr(_) | Self::Redis(_) => None,
            Self::Direct(direct) => Some(direct.subscribers()),
        }
    }

    /// Makes one attempt to publish a change.
    ///
    /// # Errors
    /// When it is not certain that the event was published; the caller should try again.
    pub async fn publish(&self, change: &Change) -> anyhow::Result<Sent> {
        match self {
            Self::Dapr(dapr) => dapr.publish(change).await.map(|()| Sent::ToBroker),
            Self::Direct(direct) => direct.publish(change).await.map(Sent::ToSubscribers),
            Self::Redis(redis) => redis.publish(change).await.map(|()| Sent::ToBroker),
        }
    }

    /// Which one it is.
    pub fn kind(&self) -> fleet::Transport {
        match self {
            Self::Dapr(_) => fleet::Transport::Dapr,
            Self::Direct(_) => fleet::Transport::Local,
            Self::Redis(_) => fleet::Transport::Redis,
        }
    }

    /// What one call of [`Self::publish_all`] may carry.
    pub fn call_limits(&self) -> CallLimits {
        match self {
            Self::Dapr(_) => dapr::CALL_LIMITS,
            Self::Direct(_) | Self::Redis(_) => CallLimits::SINGLE,
        }
    }

    /// Makes one attempt to publish changes of one collection, within [`Self::call_limits`]. There
    /// is a result for each, in their order: an error as of [`Self::publish`].
    pub async fn publish_all(&self, changes: &[&Change]) -> Vec<anyhow::Result<()>> {
        match self {
            Self::Dapr(dapr) if changes.len() > 1 => dapr.publish_all(changes).await,
            _ => {
                let published = changes.iter().map(|change| self.publish(change));
                let results = join_all(published).await.into_iter();
                results.map(|result| result.map(drop)).collect()
            }
        }
    }

    /// Makes one attempt to send an event again that has no revision, with a new time to live.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn send_original(&self, original: &OriginalEvent) -> anyhow::Result<Sent> {
        match self {
            Self::Dapr(dapr) => dapr.send_original(original).await.map(|()| Sent::ToBroker),
            Self::Direct(direct) => {
                let sent = direct.send_original(original).await;
                sent.map(Sent::ToSubscribers)
            }
            Self::Redis(redis) => {
                let sent = redis.send_original(original).await;
                sent.map(|()| Sent::ToBroker)
            }
        }
    }
}

/// What one call may carry, and how many calls of a collection there may be at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// Calls of one collection at the same time. Changes that come meanwhile wait for the next call.
    pub calls: usize,
    /// Events of a call.
    pub events: usize,
    /// Bytes of the events of a call.
    pub bytes: usize,
}

impl CallLimits {
    /// One event in a call, and any number of calls.
    pub const SINGLE: Self = Self {
        calls: usize::MAX,
        events: 1,
        bytes: usize::MAX,
    };
}

/// What is known of an event after it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The broker took it. Which subscribers take it is not known here.
    ToBroker,
    /// Each subscriber that is known was asked.
    ToSubscribers(Deliveries),
}

/// How many subscribers did what with an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// They took it.
    pub taken: u64,
    /// They answered DROP.
    pub dropped: u64,
    /// They cannot be reached, answered RETRY or an error, or did not answer in time.
    pub failed: u64,
    /// They do not subscribe to the collection.
    pub not_subscribed: u64,
}
