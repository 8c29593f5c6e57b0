//! Event managers: how an event reaches the subscribers.
//!
//! All of them carry the same events and may carry one twice; none of them is trusted to carry
//! every one.

use contract::Change;

pub mod cloudevent;
pub mod dapr;
pub mod direct;
pub mod redis;

/// The engine behind `AURA_CONFIGURATION_EVENTS_MANAGER` (requirement A2).
#[derive(Debug)]
pub enum Manager {
    /// Through the Dapr sidecar.
    Dapr(dapr::Dapr),
    /// Straight to subscribers that are known by address.
    Local(direct::Local),
    /// Straight through Redis.
    Redis(Box<redis::Redis>),
}

impl Manager {
    /// Whom events go to, where that is known here.
    pub fn subscribers(&self) -> Option<direct::Subscribers> {
        match self {
            Self::Dapr(_) | Self::Redis(_) => None,
            Self::Local(local) => Some(local.subscribers()),
        }
    }

    /// Tries once to publish a change.
    ///
    /// # Errors
    /// When it is not certain that it was published; it should be tried again.
    pub async fn publish(&self, change: &Change) -> anyhow::Result<()> {
        match self {
            Self::Dapr(dapr) => dapr.publish(change).await,
            Self::Local(local) => local.publish(change).await,
            Self::Redis(redis) => redis.publish(change).await,
        }
    }
}
