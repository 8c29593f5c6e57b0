//! Measure 4: PUTs per second of 64 clients on one collection, on both stores, compared with the
//! procedure of the source document: `replaceOne` (majority, journal), then one publish.
//!
//! All publish to one sidecar with one Redis, without subscribers. Our publisher answers before it
//! has published. The remaining events are published before the next measurement, and a second row
//! includes the time for it.
//!
//! Sidecar and Redis use most of two processors, on both sides. Rows with events off show the cost of
//! the store itself, beside what gives the same guarantee: on MongoDB the transaction of a write, made
//! by each client on its own; on the embedded store one append and one sync for all writes that wait.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use contract::event;
use e2e::{
    client::Api,
    testbed::{
        FREE,
        mongod::Mongod,
        redis::Redis,
        services::Service,
        sidecar::{self, Sidecar},
        wait::within,
    },
};
use mongodb::{Collection, bson::Document};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    Bench,
    figures::{Comparison, Row, Target, Unit},
    floor::{
        appended,
        driver::{self, Transactions},
    },
    prepare::{create_documents, id},
    values::value,
};

const CLIENTS: u64 = 64;
/// Documents of each client, which no other client writes.
const DOCUMENTS: u64 = 16;
/// Length of a value, in bytes.
const BYTES: usize = 300;
const LASTING: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(1);
/// The time limit to publish the remaining events.
const PUBLISHED: Duration = Duration::from_secs(60);

/// The writer under test.
enum Writer {
    /// Writes over the HTTP API of a publisher.
    Ours { api: Box<Api>, events: bool },
    /// Appends to a file, over HTTP.
    Appended(Box<Api>),
    /// Writes with the transaction of a publisher, made by the driver.
    Transaction(Box<Transactions>),
    /// Writes as in the source document: with the driver, then the HTTP API of the sidecar, for
    /// which its clients are made.
    Theirs {
        table: Collection<Document>,
        client: reqwest::Client,
        publish: Option<String>,
    },
}

/// Writes per second: until they were answered, and until all were published.
struct Rates {
    answered: f64,
    published: f64,
}

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let redis = Redis::start().await?;
    let mongod = Mongod::start().await?;
    let publisher = || {
        Ok::<_, anyhow::Error>(Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", FREE))
    };
    let on_mongo =
        |name| anyhow::Ok(publisher()?.with("AURA_CONFIGURATION_STORE_URL", mongod.url(name)));
    let mut publishers = [
        on_mongo("confcast")?,
        publisher()?,
        on_mongo("silent")?,
        publisher()?,
    ];
    let mut sidecar = Sidecar::new(sidecar::PUBLISHER, publishers[0].port(), "bench", &redis)?;
    let (loud, silent) = publishers.split_at_mut(2);
    for publisher in loud {
        publisher.set("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR");
        publisher.set("DAPR_GRPC_PORT", sidecar.grpc_port().to_string());
    }
    silent
        .iter_mut()
        .for_each(|publisher| publisher.set("AURA_CONFIGURATION_EVENTS_ENABLED", "false"));
    for publisher in &mut publishers {
        publisher.start().await?;
        create_documents(
            &publisher.api(),
            FREE,
            (CLIENTS * DOCUMENTS) as usize,
            BYTES,
        )
        .await?;
    }
    sidecar.start().await?;
    let [mongo, embedded, silent_mongo, silent_embedded] = publishers.each_ref().map(Service::api);
    let table = driver::client(&mongod.url("source"))
        .await?
        .database("source")
        .collection(FREE);
    let port = sidecar.http_port();
    let publish = format!(
        "http://127.0.0.1:{port}/v1.0/publish/pubsub-config/{FREE}?metadata.{}=60",
        event::TTL
    );
    let client = e2e::http().no_proxy().build()?;
    let theirs = |publish| Writer::Theirs {
        table: table.clone(),
        client: client.clone(),
        publish,
    };
    let loud = [
        theirs(Some(publish)),
        Writer::Ours {
            api: Box::new(mongo),
            events: true,
        },
        Writer::Ours {
            api: Box::new(embedded),
            events: true,
        },
    ];
    // The floor copies the newest change record, which must be that of a PUT.
    silent_mongo
        .put(FREE, &id(0), &value(1 << 31, BYTES))
        .await?
        .expect(200)?;
    let transactions = Transactions::beside(&mongod.url("silent"), "silent", "floor", FREE).await?;
    let appended = appended::start().await?;
    let [silent_mongo, silent_embedded] = [silent_mongo, silent_embedded].map(|api| Writer::Ours {
        api: Box::new(api),
        events: false,
    });
    let silent = [
        theirs(None),
        silent_mongo,
        Writer::Transaction(Box::new(transactions)),
        silent_embedded,
        Writer::Appended(Box::new(appended.api())),
    ];

    let beside = "replaceOne, then publish";
    let lines =
        [("PUT on MongoDB", 1.5), ("PUT on the embedded store", 4.0)].map(|(line, least)| {
            let line = format!("{line}, {CLIENTS} clients");
            let answered = Comparison::new(4, Unit::PerSecond, line.as_str(), beside)
                .must(Target::AtLeast(least));
            (
                answered,
                Comparison::new(
                    4,
                    Unit::PerSecond,
                    format!("{line}, until published"),
                    beside,
                ),
            )
        });
    let [mut first, mut second] = lines;
    let quiet = |line: &str, beside: &str| {
        let line = format!("{line}, {CLIENTS} clients, events off");
        Comparison::new(4, Unit::PerSecond, line, beside)
    };
    let [mut on_mongo, mut on_embedded] =
        ["PUT on MongoDB", "PUT on the embedded store"].map(|line| quiet(line, "replaceOne alone"));
    let mut beside_transactions = quiet(
        "PUT on MongoDB",
        &format!("{CLIENTS} clients of the driver, each the same transaction"),
    )
    .must(Target::AtLeast(5.0));
    let mut beside_append = quiet(
        "PUT on the embedded store",
        "actix: appends what waits to a file, fdatasync",
    )
    .must(Target::AtLeast(0.5));
    for writer in loud.iter().chain(&silent) {
        writer.rates(bench.lasting(WARM_UP)).await?;
    }
    for round in 0..bench.rounds {
        bench.say(&format!("measure 4, round {}", round + 1));
        let [source, mongo, embedded] = turns(bench, &loud, round % 2 == 1).await?;
        for ((answered, published), rates) in [(&mut first, mongo), (&mut second, embedded)] {
            answered.round(rates.answered, source.answered);
            published.round(rates.published, source.published);
        }
        let [source, mongo, transactions, embedded, append] =
            turns(bench, &silent, round % 2 == 1).await?;
        on_mongo.round(mongo.answered, source.answered);
        on_embedded.round(embedded.answered, source.answered);
        beside_transactions.round(mongo.answered, transactions.answered);
        beside_append.round(embedded.answered, append.answered);
    }
    let (first, second) = ([first.0, second.0], [first.1, second.1]);
    Ok(first
        .into_iter()
        .chain(second)
        .chain([beside_transactions, beside_append, on_mongo, on_embedded])
        .filter_map(Comparison::row)
        .collect())
}

/// One round of some writers, in this order or reversed.
async fn turns<const N: usize>(
    bench: &Bench,
    writers: &[Writer; N],
    back: bool,
) -> anyhow::Result<[Rates; N]> {
    let mut rates = Vec::with_capacity(N);
    for turn in 0..N {
        let writer = if back { N - 1 - turn } else { turn };
        rates.push(writers[writer].rates(bench.lasting(LASTING)).await?);
    }
    if back {
        rates.reverse();
    }
    rates
        .try_into()
        .map_err(|_| anyhow!("a writer without a rate"))
}

impl Writer {
    /// All clients write as fast as they get answers, from the start of the first until the last
    /// answer.
    async fn rates(&self, lasting: Duration) -> anyhow::Result<Rates> {
        let mut writers = Vec::new();
        for _client in 0..CLIENTS {
            writers.push(self.another().await?);
        }
        let begun = Instant::now();
        let mut clients = JoinSet::new();
        for (client, mut writer) in (0..).zip(writers) {
            clients.spawn(async move {
                let mut written = 0;
                while begun.elapsed() < lasting {
                    writer
                        .write(&id(client * DOCUMENTS + written % DOCUMENTS))
                        .await?;
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
        if let Self::Ours { api, events: true } = self {
            until_published(api).await?;
        }
        let rate = |time: Duration| written as f64 / time.as_secs_f64();
        Ok(Rates {
            answered: rate(answered),
            published: rate(begun.elapsed()),
        })
    }

    /// The writer of one more client.
    async fn another(&self) -> anyhow::Result<Self> {
        Ok(match self {
            Self::Ours { api, events } => Self::Ours {
                api: api.clone(),
                events: *events,
            },
            Self::Appended(api) => Self::Appended(api.clone()),
            Self::Transaction(transactions) => {
                Self::Transaction(Box::new(transactions.another().await?))
            }
            Self::Theirs {
                table,
                client,
                publish,
            } => Self::Theirs {
                table: table.clone(),
                client: client.clone(),
                publish: publish.clone(),
            },
        })
    }

    /// One write of an existing document. All values differ, because an equal value is no change.
    async fn write(&mut self, id: &str) -> anyhow::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(1 << 32);
        let number = NUMBER.fetch_add(1, Relaxed);
        let value = value(number, BYTES);
        match self {
            Self::Ours { api, .. } | Self::Appended(api) => {
                drop(api.put(FREE, id, &value).await?.expect(200)?);
            }
            Self::Transaction(transactions) => transactions.write_beside(id, &value).await?,
            Self::Theirs {
                table,
                client,
                publish,
            } => {
                driver::replace(table, id, &value).await?;
                let Some(publish) = publish else {
                    return Ok(());
                };
                let data = json!({
                    "collection": FREE, "op": "Update", "id": id, "configData": value, "crc": "",
                    "metadata": { event::TTL: "60" }, "pubSubName": "pubsub-config",
                });
                let event = json!({
                    "specversion": "1.0", "id": number.to_string(), "source": event::SOURCE, "type": event::TYPE,
                    "subject": id, "datacontenttype": "application/json", "data": data,
                });
                let request = client
                    .post(publish.as_str())
                    .header("content-type", "application/cloudevents+json");
                let answer = request
                    .body(event.to_string())
                    .send()
                    .await?
                    .error_for_status()?;
                // The body is read to its end, so that the connection can be used again.
                answer.bytes().await?;
            }
        }
        Ok(())
    }
}

/// Waits until a publisher has published all its commits.
async fn until_published(api: &Api) -> anyhow::Result<()> {
    let committed = api.head(FREE).await?.revision;
    within(PUBLISHED, "everything is published", async || {
        let metrics = api.get("/metrics").await?.expect(200)?.body;
        let counter = metrics
            .lines()
            .find_map(|line| line.strip_prefix(r#"confcast_events_total{result="published"} "#));
        let published: u64 = counter.context("no event was published")?.parse()?;
        ensure!(published >= committed, "{published} of {committed}");
        Ok(())
    })
    .await
}
