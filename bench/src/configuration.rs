//! Measure 19: the time from before a write is sent until a client of Dapr's Configuration API has its
//! change, compared with `configuration.redis` of a sidecar. One write at a time.
//!
//! Both sides are asked by the same client of Dapr's SDK. Ours is a publisher with its embedded store, which
//! answers when the write is durable, and a subscriber of its own process. Theirs is a Redis without a disk,
//! which tells the sidecar of each key by keyspace events; the sidecar then reads the value.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use contract::status::ReplicaStatus;
use dapr::dapr::proto::runtime::v1::{
    SubscribeConfigurationRequest, SubscribeConfigurationResponse, dapr_client::DaprClient,
};
use e2e::testbed::{
    FREE,
    ports::free_port,
    redis::Redis,
    services::Service,
    sidecar::{self, Sidecar},
    wait::eventually,
};
use tokio::{time::timeout, try_join};
use tonic::Streaming;

use crate::{
    Bench,
    carrier::TIMEOUT,
    figures::{Comparison, Durations, Row, Unit},
    prepare::{create_documents, id},
    values::value,
};

const WRITES: usize = 1_000;
const WARM_UP: usize = 100;
/// Length of a value, in bytes.
const BYTES: usize = 300;
/// The store of the sidecar.
const STORE: &str = "redis-configuration";

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut ours = Ours::start().await?;
    let mut theirs = Theirs::start().await?;
    // No target: ours is on a disk when it is answered, and theirs is not.
    let line = "PUT sent until a client of Dapr has it, LOCAL, embedded store";
    let peer = "configuration.redis of daprd, SET until the client has it";
    let row = |ours: String, beside: &str| Comparison::new(19, Unit::Seconds, ours, beside);
    let mut median = row(format!("{line}, median"), peer);
    let mut tail = row(format!("{line}, p99"), peer);
    let ours_answered = "of that, until the PUT is answered, median".to_owned();
    let mut answered = row(ours_answered, "until the SET is answered");
    ours.writes(bench.sized(WARM_UP)).await?;
    theirs.writes(bench.sized(WARM_UP)).await?;
    for round in 0..bench.rounds {
        bench.say(&format!("measure 19, round {}", round + 1));
        let writes = bench.sized(WRITES);
        let (mut here, mut our_answer, mut there, mut their_answer);
        if round % 2 == 0 {
            [there, their_answer] = theirs.writes(writes).await?;
            [here, our_answer] = ours.writes(writes).await?;
        } else {
            [here, our_answer] = ours.writes(writes).await?;
            [there, their_answer] = theirs.writes(writes).await?;
        }
        median.round(here.at(50), there.at(50));
        tail.round(here.at(99), there.at(99));
        answered.round(our_answer.at(50), their_answer.at(50));
    }
    let rows = [median, tail, answered]
        .into_iter()
        .filter_map(Comparison::row);
    Ok(rows.collect())
}

/// What the text of a value of this number contains, and no other one.
fn mark(number: u64) -> String {
    format!("\"number\":{number},")
}

/// A subscription of one key.
struct Client(Streaming<SubscribeConfigurationResponse>);

impl Client {
    async fn start(port: u16, store: &str, key: &str) -> anyhow::Result<Self> {
        let mut client = DaprClient::connect(format!("http://127.0.0.1:{port}")).await?;
        let request = SubscribeConfigurationRequest {
            store_name: store.to_owned(),
            keys: vec![key.to_owned()],
            ..SubscribeConfigurationRequest::default()
        };
        let mut updates = client.subscribe_configuration(request).await?.into_inner();
        // The id alone.
        updates.message().await?.context("the stream has ended")?;
        Ok(Self(updates))
    }

    /// Writes the value of this number. How long it took until the client has it, and until the write was
    /// answered.
    async fn time(
        &mut self,
        number: u64,
        write: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<[Duration; 2]> {
        let mark = mark(number);
        let sent = Instant::now();
        let answered = async {
            write.await?;
            anyhow::Ok(Instant::now())
        };
        let all = async { try_join!(answered, self.until(&mark)) };
        let all = timeout(TIMEOUT, all).await;
        let (answered, has) = all.context("a write did not arrive")??;
        Ok([has - sent, answered - sent])
    }

    /// The time when it had a value that contains a text.
    async fn until(&mut self, text: &str) -> anyhow::Result<Instant> {
        loop {
            let update = self.0.message().await?.context("the stream has ended")?;
            if update.items.values().any(|item| item.value.contains(text)) {
                return Ok(Instant::now());
            }
        }
    }
}

/// A publisher, and a subscriber with the API.
struct Ours {
    publisher: Service,
    client: Client,
    number: u64,
    _subscriber: Service,
}

impl Ours {
    async fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", FREE);
        let mut subscriber = Service::subscriber("configuration", &[publisher.url()])?
            .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
            .with("AURA_CONFIGURATION_CHECK_IN_SECONDS", "3600")
            .with(
                "AURA_CONFIGURATION_DAPR_API_LISTEN",
                format!("127.0.0.1:{port}"),
            );
        publisher.set("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", subscriber.url());
        publisher.start().await?;
        subscriber.start().await?;
        create_documents(&publisher.api(), FREE, 1, BYTES).await?;
        let client = Client::start(port, FREE, &id(0)).await?;
        // A publisher that read the routes of the subscriber too early reads them again when there is an
        // event to send.
        eventually("the subscriber hears events", async || {
            let api = publisher.api();
            let before = api.head(FREE).await?.revision;
            let written = api.put(FREE, &id(0), &value(before, BYTES)).await?;
            written.expect(200)?;
            let status = subscriber.api().get("/v1/status").await?;
            let status: ReplicaStatus = serde_json::from_str(&status.expect(200)?.body)?;
            ensure!(status.events.applied > 0, "no event was applied");
            Ok(())
        })
        .await?;
        Ok(Self {
            publisher,
            client,
            number: 1_000,
            _subscriber: subscriber,
        })
    }

    /// The times until the client has a write, and until it was answered.
    async fn writes(&mut self, writes: usize) -> anyhow::Result<[Durations; 2]> {
        let [mut durations, mut answers] = <[Durations; 2]>::default();
        let api = self.publisher.api();
        for _each in 0..writes {
            self.number += 1;
            let value = value(self.number, BYTES);
            let write = async {
                api.put(FREE, &id(0), &value).await?.expect(200)?;
                Ok(())
            };
            let [has, answer] = self.client.time(self.number, write).await?;
            durations.add(has);
            answers.add(answer);
        }
        Ok([durations, answers])
    }
}

/// A Redis, and a sidecar that follows a key of it.
struct Theirs {
    redis: Redis,
    client: Client,
    number: u64,
    _sidecar: Sidecar,
}

impl Theirs {
    async fn start() -> anyhow::Result<Self> {
        let redis = Redis::start().await?;
        let mut sidecar = Sidecar::new(sidecar::SUBSCRIBER, free_port()?, "configuration", &redis)?;
        let component = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {STORE}}}\nspec:\n  \
             type: configuration.redis\n  version: v1\n  metadata:\n  - {{name: redisHost, value: \"{}\"}}\n",
            redis.host()
        );
        sidecar.add_component(STORE, &component)?;
        sidecar.start().await?;
        let client = Client::start(sidecar.grpc_port(), STORE, &id(0)).await?;
        let mut theirs = Self {
            redis,
            client,
            number: 0,
            _sidecar: sidecar,
        };
        // The sidecar answers before it has subscribed at Redis.
        let deadline = Instant::now() + TIMEOUT;
        loop {
            theirs.number += 1;
            theirs.set().await?;
            let mark = mark(theirs.number);
            let heard = timeout(TIMEOUT / 50, theirs.client.until(&mark)).await;
            if let Ok(heard) = heard {
                heard?;
                return Ok(theirs);
            }
            ensure!(
                Instant::now() < deadline,
                "the sidecar hears no change of Redis"
            );
        }
    }

    async fn set(&self) -> anyhow::Result<()> {
        let text = format!("{}||{}", value(self.number, BYTES), self.number);
        self.redis.command(&["SET", &id(0), &text]).await?;
        Ok(())
    }

    /// The times until the client has a write, and until it was answered.
    async fn writes(&mut self, writes: usize) -> anyhow::Result<[Durations; 2]> {
        let [mut durations, mut answers] = <[Durations; 2]>::default();
        let mut redis = self.redis.client().await?;
        for _each in 0..writes {
            self.number += 1;
            let text = format!("{}||{}", value(self.number, BYTES), self.number);
            let key = id(0);
            let write = async {
                redis.command(&["SET", &key, &text]).await?;
                Ok(())
            };
            let [has, answer] = self.client.time(self.number, write).await?;
            durations.add(has);
            answers.add(answer);
        }
        Ok([durations, answers])
    }
}
