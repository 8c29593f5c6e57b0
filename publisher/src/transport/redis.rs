//! Events through Redis, without a sidecar: by Pub/Sub, or by streams that keep the newest events
//! (requirement A7 to A11).
//!
//! The body is the data of the event without an envelope. A publish that succeeded does not mean
//! that a subscriber received the event: subscribers catch up whenever they connect. Nothing here
//! retries; the relay does.

use std::collections::BTreeSet;

use anyhow::Context;
use broker::{Delivery, Sender};
use contract::{Change, CollectionName, DocumentId};

use crate::transport::{cloudevent::EventEncoder, original::OriginalEvent};

/// Publishes events through Redis.
#[derive(Debug)]
pub struct RedisTransport {
    sender: Sender,
    delivery: Delivery,
    /// Entries that stay in a stream, approximately.
    keep: u64,
    /// Collections whose documents have channels of their own (requirement A8).
    by_document: BTreeSet<CollectionName>,
    encoder: EventEncoder,
}

impl RedisTransport {
    /// The Redis may start later: the first publish connects.
    pub fn new(
        redis: broker::RedisConfig,
        keep: u64,
        by_document: BTreeSet<CollectionName>,
        encoder: EventEncoder,
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
            encoder,
        }
    }

    pub(super) async fn publish(&self, change: &Change) -> anyhow::Result<()> {
        let body = self.encoder.without_envelope(change)?;
        self.send(&change.collection, &change.id, &body).await
    }

    /// See [`super::Transport::send_original`].
    pub(super) async fn send_original(&self, original: &OriginalEvent) -> anyhow::Result<()> {
        let body = original.without_envelope()?;
        self.send(&original.collection, &original.id, &body).await
    }

    async fn send(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        body: &[u8],
    ) -> anyhow::Result<()> {
        let sent = match self.delivery {
            Delivery::PubSub => {
                let id = self.by_document.contains(collection).then_some(id);
                self.sender.publish(collection, id, body).await
            }
            Delivery::Streams => self.sender.append(collection, body, self.keep).await,
        };
        sent.with_context(|| format!("sending to Redis at {:?}", self.sender.address()))
    }
}
