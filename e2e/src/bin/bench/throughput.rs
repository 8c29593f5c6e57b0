//! Measure 4: PUTs a second of 64 clients on one collection, on both stores, beside what the source document does: `replaceOne`
//! (majority, journal), then one publish.
//!
//! All of them publish to one sidecar with one Redis, and nobody subscribes. Ours answers before it has published, so what is
//! left over is published before anything else is measured, and a second line counts the time for it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use contract::event;
use e2e::{
    client::Api,
    mongod::Mongod,
    redis::Redis,
    services::Service,
    sidecar::{self, Sidecar},
    stage::FREE,
    wait::within,
};
use mongodb::{Collection, bson::Document};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    Bench,
    figures::{Comparison, Row, Target, Unit},
    fill::{fill, id},
    floor::driver,
    values::value,
};

const CLIENTS: u64 = 64;
/// Documents of each client, which nobody else writes.
const DOCUMENTS: u64 = 16;
/// Length of a value, in bytes.
const BYTES: usize = 300;
const LASTING: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(1);
/// What is left over may take so long to be published.
const PUBLISHED: Duration = Duration::from_secs(60);

/// Who writes.
#[derive(Clone)]
enum Writer {
    /// Over the HTTP API of a publisher.
    Ours(Api),
    /// As the source document: the driver, then the HTTP API of the sidecar, which is what its clients are made for.
    Theirs { table: Collection<Document>, client: reqwest::Client, publish: String },
}

/// Writes a second: until they were answered, and until all of them were published.
struct Rates {
    answered: f64,
    published: f64,
}

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (redis, mongod) = (Redis::start().await?, Mongod::start().await?);
    let publisher = || Ok::<_, anyhow::Error>(Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", FREE));
    let mongo = publisher()?.with("AURA_CONFIGURATION_STORE_URL", mongod.url("confcast"));
    let mut publishers = [mongo, publisher()?];
    let mut sidecar = Sidecar::new(sidecar::PUBLISHER, publishers[0].port(), "bench", &redis)?;
    for publisher in &mut publishers {
        publisher.set("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR");
        publisher.set("DAPR_GRPC_PORT", sidecar.grpc_port().to_string());
        publisher.start().await?;
    }
    sidecar.start().await?;
    let [on_mongo, on_embedded] = publishers.each_ref().map(Service::api);
    for api in [&on_mongo, &on_embedded] {
        fill(api, FREE, (CLIENTS * DOCUMENTS) as usize, BYTES).await?;
    }
    let theirs = Writer::Theirs {
        table: driver::client(&mongod.url("source")).await?.database("source").collection(FREE),
        client: reqwest::Client::builder().no_proxy().build()?,
        publish: format!(
            "http://127.0.0.1:{}/v1.0/publish/pubsub-config/{FREE}?metadata.{}=60",
            sidecar.http_port(),
            event::TTL
        ),
    };
    let writers = [theirs, Writer::Ours(on_mongo), Writer::Ours(on_embedded)];

    let beside = "replaceOne, then publish";
    let lines = ["PUT on MongoDB", "PUT on the embedded store"].map(|line| {
        let line = format!("{line}, {CLIENTS} clients");
        let answered = Comparison::new(4, Unit::PerSecond, line.as_str(), beside).must(Target::AtLeast(3.0));
        (answered, Comparison::new(4, Unit::PerSecond, format!("{line}, until published"), beside))
    });
    let [mut first, mut second] = lines;
    for writer in &writers {
        writer.rates(bench.lasting(WARM_UP)).await?;
    }
    for round in 0..bench.rounds {
        bench.say(&format!("measure 4, round {}", round + 1));
        let [mut source, mut mongo, mut embedded] = [None, None, None];
        let mut turns = [(&writers[0], &mut source), (&writers[1], &mut mongo), (&writers[2], &mut embedded)];
        if round % 2 == 1 {
            turns.reverse();
        }
        for (writer, rates) in turns {
            *rates = Some(writer.rates(bench.lasting(LASTING)).await?);
        }
        let source = source.context("not measured")?;
        for ((answered, published), rates) in [(&mut first, mongo), (&mut second, embedded)] {
            let rates = rates.context("not measured")?;
            answered.round(rates.answered, source.answered);
            published.round(rates.published, source.published);
        }
    }
    let (first, second) = ([first.0, second.0], [first.1, second.1]);
    Ok(first.into_iter().chain(second).filter_map(Comparison::row).collect())
}

impl Writer {
    /// All clients write as fast as they are answered, from the start of the first until the last answer.
    async fn rates(&self, lasting: Duration) -> anyhow::Result<Rates> {
        let (begun, mut clients) = (Instant::now(), JoinSet::new());
        for client in 0..CLIENTS {
            let writer = self.clone();
            clients.spawn(async move {
                let mut written = 0;
                while begun.elapsed() < lasting {
                    writer.write(&id(client * DOCUMENTS + written % DOCUMENTS)).await?;
                    written += 1;
                }
                anyhow::Ok(written)
            });
        }
        let mut written = 0;
        while let Some(client) = clients.join_next().await {
            written += client??;
        }
        let answered = begun.elapsed();
        if let Self::Ours(api) = self {
            until_published(api).await?;
        }
        let rate = |time: Duration| written as f64 / time.as_secs_f64();
        Ok(Rates { answered: rate(answered), published: rate(begun.elapsed()) })
    }

    /// One write of a document that is there. No two values are alike: the same value again would be no change.
    async fn write(&self, id: &str) -> anyhow::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(1 << 32);
        let number = NUMBER.fetch_add(1, Relaxed);
        let value = value(number, BYTES);
        match self {
            Self::Ours(api) => drop(api.put(FREE, id, &value).await?.expect(200)?),
            Self::Theirs { table, client, publish } => {
                driver::replace(table, id, &value).await?;
                let data = json!({
                    "collection": FREE, "op": "Update", "id": id, "configData": value, "crc": "",
                    "metadata": { event::TTL: "60" }, "pubSubName": "pubsub-config",
                });
                let event = json!({
                    "specversion": "1.0", "id": number.to_string(), "source": event::SOURCE, "type": event::TYPE,
                    "subject": id, "datacontenttype": "application/json", "data": data,
                });
                let request = client.post(publish).header("content-type", "application/cloudevents+json");
                let answer = request.body(event.to_string()).send().await?.error_for_status()?;
                // Read to its end, or the connection could not be used again.
                answer.bytes().await?;
            }
        }
        Ok(())
    }
}

/// Waits until a publisher has published all that it ever committed.
async fn until_published(api: &Api) -> anyhow::Result<()> {
    let committed = api.head(FREE).await?.revision;
    within(PUBLISHED, "everything is published", async || {
        let metrics = api.get("/metrics").await?.expect(200)?.body;
        let counter =
            metrics.lines().find_map(|line| line.strip_prefix(r#"confcast_events_total{result="published"} "#));
        let published: u64 = counter.context("no event was published")?.parse()?;
        ensure!(published >= committed, "{published} of {committed}");
        Ok(())
    })
    .await
}
