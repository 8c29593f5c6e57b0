//! A bare PUBLISH to two subscribed connections of a Redis of its own.

use std::time::{Duration, Instant};

use anyhow::Context;
use e2e::testbed::redis::Redis;
use futures_util::StreamExt;
use redis::{
    AsyncCommands, Client, IntoConnectionInfo, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::{sync::watch, task::JoinSet};

use super::{payload::Payload, receiver::until};
use crate::carrier::Carrier;

const CHANNEL: &str = "bare";

/// A connection that publishes, and two that receive.
#[derive(Debug)]
pub(crate) struct Channel {
    publisher: MultiplexedConnection,
    body: Vec<u8>,
    arrived: Vec<watch::Receiver<u64>>,
    count: u64,
    _listening: JoinSet<()>,
    _redis: Redis,
}

impl Channel {
    /// Starts all. Both are subscribed on return.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let redis = Redis::start().await?;
        let node = redis
            .url()
            .into_connection_info()?
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(node)?;
        let mut arrived = Vec::new();
        let mut listening = JoinSet::new();
        for _subscriber in 0..2 {
            let mut connection = client.get_async_pubsub().await?;
            connection.subscribe(CHANNEL).await?;
            let (sender, receiver) = watch::channel(0);
            arrived.push(receiver);
            listening.spawn(async move {
                let mut messages = connection.into_on_message();
                // The body is copied, because an unread message does not count as delivered.
                while let Some(message) = messages.next().await {
                    let _body = message.get_payload_bytes().to_vec();
                    sender.send_modify(|count| *count += 1);
                }
            });
        }
        let publisher = client.get_multiplexed_async_connection().await?;
        let body = Payload::new()?.bare;
        Ok(Self {
            publisher,
            body,
            arrived,
            count: 0,
            _listening: listening,
            _redis: redis,
        })
    }
}

impl Carrier for Channel {
    async fn once(&mut self) -> anyhow::Result<Duration> {
        self.count += 1;
        let count = self.count;
        let arrived = &mut self.arrived;
        let began = Instant::now();
        let arrival = async {
            until(arrived, count).await?;
            anyhow::Ok(began.elapsed())
        };
        let publish = self.publisher.publish::<_, _, ()>(CHANNEL, &self.body);
        let (took, published) = tokio::join!(arrival, publish);
        published.context("PUBLISH")?;
        took
    }
}
