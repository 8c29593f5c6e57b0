//! Events straight through Redis: by Pub/Sub, or by streams that keep the newest (requirement A7 to
//! A11).
//!
//! The body is the bare data of the event. That an event was published says nothing of who heard
//! it: subscribers ask for what they missed whenever they connect.

use std::collections::BTreeSet;

use broker::{Delivery, Sender};
use contract::{Change, CollectionName};

use crate::transport::cloudevent::Envelopes;

/// A Redis.
#[derive(Debug)]
pub struct Redis {
    sender: Sender,
    delivery: Delivery,
    /// About so many entries stay in a stream.
    keep: u64,
    /// Collections whose documents have channels of their own (requirement A8).
    by_document: BTreeSet<CollectionName>,
    envelopes: Envelopes,
}

impl Redis {
    /// A Redis that need not be there yet.
    pub fn new(
        redis: broker::RedisConfig,
        keep: u64,
        by_document: BTreeSet<CollectionName>,
        envelopes: Envelopes,
    ) -> Self {
        let broker::RedisConfig {
            address,
            names,
            delivery,
        } = redis;
        Self {
            sender: Sender::new(address, names),
            delivery,
            keep,
            by_document,
            envelopes,
        }
    }

    pub(super) async fn publish(&self, change: &Change) -> anyhow::Result<()> {
        let (body, collection) = (self.envelopes.bare(change)?, &change.collection);
        match self.delivery {
            Delivery::PubSub => {
                let id = self.by_document.contains(collection).then_some(&change.id);
                self.sender.publish(collection, id, &body).await?;
            }
            Delivery::Streams => self.sender.append(collection, &body, self.keep).await?,
        }
        Ok(())
    }
}
