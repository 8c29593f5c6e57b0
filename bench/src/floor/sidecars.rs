//! Bare sidecars: one to publish to, a Redis, and receivers with a sidecar each. They have our
//! components and none of our programs.
//!
//! Both topologies use one set of processes with different topics: one receiver, or two.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use contract::event::{MEDIA_TYPE, TTL};
use dapr::dapr::proto::runtime::v1::{PublishEventRequest, dapr_client::DaprClient};
use e2e::testbed::{
    SCHEMA_FREE,
    redis::Redis,
    sidecar::{self, Sidecar},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::timeout};
use tonic::transport::{Channel, Endpoint};

use super::{
    payload::Payload,
    receiver::{Receiver, until},
};
use crate::carrier::{Carrier, TIMEOUT};

/// The time limit that our publisher gives a sidecar.
const PUBLISH: Duration = Duration::from_secs(2);
/// The topic of one receiver, and the topic of two.
const ONE: &str = SCHEMA_FREE[1];
const TWO: &str = SCHEMA_FREE[0];

/// The processes.
#[derive(Debug)]
struct Processes {
    payload: Payload,
    client: DaprClient<Channel>,
    // Killed before those that they call.
    _sidecars: Vec<Sidecar>,
    _receivers: Vec<Receiver>,
    _redis: Redis,
}

/// A topic with its receivers.
#[derive(Debug)]
pub(crate) struct Sidecars {
    processes: Arc<Processes>,
    topic: &'static str,
    arrived: Vec<watch::Receiver<u64>>,
}

impl Sidecars {
    /// Starts everything, for one receiver and for two.
    pub(crate) async fn start() -> anyhow::Result<(Self, Self)> {
        let redis = Redis::start().await?;
        let payload = Payload::new()?;
        let start = |topics: &[&str]| Receiver::start(&payload.component, topics);
        // The publisher's sidecar has an application too, without subscriptions.
        let receivers = vec![start(&[ONE, TWO])?, start(&[TWO])?, start(&[])?];
        let mut sidecars = Vec::new();
        for (index, receiver) in receivers.iter().enumerate() {
            let app = if index < 2 {
                sidecar::SUBSCRIBER
            } else {
                sidecar::PUBLISHER
            };
            let mut sidecar = Sidecar::new(app, receiver.port(), &format!("bare-{index}"), &redis)?;
            sidecar.start().await?;
            if index < 2 {
                sidecar.until_subscribed().await?;
            }
            sidecars.push(sidecar);
        }
        let port = sidecars
            .last()
            .context("a sidecar to publish to")?
            .grpc_port();
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
        let channel = endpoint
            .timeout(PUBLISH)
            .tcp_nodelay(true)
            .connect()
            .await?;
        let arrived: Vec<_> = receivers.iter().take(2).map(Receiver::arrived).collect();
        let processes = Processes {
            payload,
            client: DaprClient::new(channel),
            _sidecars: sidecars,
            _receivers: receivers,
            _redis: redis,
        };
        let processes = Arc::new(processes);
        let one = Self {
            processes: processes.clone(),
            topic: ONE,
            arrived: arrived.iter().take(1).cloned().collect(),
        };
        Ok((
            one,
            Self {
                processes,
                topic: TWO,
                arrived,
            },
        ))
    }

    /// Publishes with `in_flight` concurrent calls for a duration. Returns the events per second
    /// that reached every receiver, from the first publish until the last arrival. No publish is
    /// further than `ahead` in front of a receiver, as with our writers: a stream that exceeds its
    /// length loses unread events.
    pub(crate) async fn flood(
        self,
        in_flight: usize,
        ahead: u64,
        lasting: Duration,
    ) -> anyhow::Result<(Self, f64)> {
        let before: Vec<u64> = self
            .arrived
            .iter()
            .map(|arrived| *arrived.borrow())
            .collect();
        let published = AtomicU64::new(0);
        let began = Instant::now();
        let lane = |_lane| self.lane(&before, ahead, &published, || began.elapsed() < lasting);
        let mut publishing: FuturesUnordered<_> = (0..in_flight).map(lane).collect();
        while let Some(lane) = publishing.next().await {
            lane?;
        }
        drop(publishing);
        let published = published.into_inner();
        for (arrived, before) in self.arrived.iter().zip(&before) {
            let mut arrived = [arrived.clone()];
            let all = until(&mut arrived, before + published);
            timeout(TIMEOUT, all)
                .await
                .with_context(|| format!("of {published} events some never came"))??;
        }
        let took = began.elapsed();
        // A duplicate would have ended the wait too early.
        for (arrived, before) in self.arrived.iter().zip(&before) {
            let came = *arrived.borrow() - before;
            ensure!(
                came == published,
                "{published} events were published and {came} came"
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of events")]
        let rate = published as f64 / took.as_secs_f64();
        Ok((self, rate))
    }

    async fn lane(
        &self,
        before: &[u64],
        ahead: u64,
        published: &AtomicU64,
        goes_on: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let mut arrived = self.arrived.clone();
        while goes_on() {
            self.publish().await?;
            let so_far = published.fetch_add(1, Relaxed) + 1;
            for (arrived, before) in arrived.iter_mut().zip(before) {
                let near = until(
                    std::slice::from_mut(arrived),
                    (before + so_far).saturating_sub(ahead),
                );
                timeout(TIMEOUT, near)
                    .await
                    .context("the receivers do not follow")??;
            }
        }
        Ok(())
    }

    /// Publishes as our publisher does, with a prepared event.
    async fn publish(&self) -> anyhow::Result<()> {
        let Payload {
            event,
            component,
            ttl_seconds,
            ..
        } = &self.processes.payload;
        let request = PublishEventRequest {
            pubsub_name: component.clone(),
            topic: self.topic.to_owned(),
            data: event.clone(),
            data_content_type: MEDIA_TYPE.to_owned(),
            metadata: HashMap::from([(TTL.to_owned(), ttl_seconds.to_string())]),
        };
        let answer = timeout(
            PUBLISH,
            self.processes.client.clone().publish_event(request),
        )
        .await;
        answer.context("the bare sidecar did not answer in time")??;
        Ok(())
    }
}

impl Carrier for Sidecars {
    async fn once(&mut self) -> anyhow::Result<Duration> {
        // Each topic has its own share of the counter of a receiver, so the expected count is read
        // each time.
        let before: Vec<u64> = self
            .arrived
            .iter()
            .map(|arrived| *arrived.borrow())
            .collect();
        let mut arrived = self.arrived.clone();
        let began = Instant::now();
        let arrival = async {
            for (one, before) in arrived.iter_mut().zip(before) {
                until(std::slice::from_mut(one), before + 1).await?;
            }
            anyhow::Ok(began.elapsed())
        };
        let (took, published) = tokio::join!(arrival, self.publish());
        published?;
        took
    }
}
