//! Measure 17: what one step of one replica costs the service above it, in processor time and in
//! bytes: a check-in, a load, an event on a live feed. The service is a publisher with its embedded
//! store, or a subscriber.
//!
//! They are the costs that `make scale` computes with; the table shows them without a target. Bytes
//! are counted by a relay, in both directions.

use std::time::Duration;

use anyhow::{Context, ensure};
use client::{
    Endpoint, Timeouts,
    live_feed::{FeedMessage, FeedStart},
};
use contract::{Head, feed::Since, fleet::CheckIn};
use e2e::testbed::{FREE, services::Service, wait::eventually};
use futures_util::future::try_join_all;
use replica::{Events, Replica, ReplicaState, Url};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    Bench,
    costs::Cost,
    documents,
    figures::{Comparison, Row, Unit},
    generator::processor_seconds,
    pair::replica,
    prepare::id,
    relay::Relay,
    values::value,
};

/// Check-ins of a round.
const CHECK_INS: usize = 10_000;
/// Clients that check in at the same time.
const CLIENTS: usize = 4;
/// Loads of a round, all at once, as after a restart: what they share is part of each.
const LOADS: usize = 40;
/// Documents of a load.
const DOCUMENTS: usize = 10_000;
/// Bytes of each.
const BYTES: usize = 1_024;
/// Readers of the live feed.
const STREAMS: usize = 100;
/// Changes that each reader receives in a round.
const CHANGES: usize = 300;
/// Bytes of a changed document, as in the measures of events.
const CHANGED_BYTES: usize = 300;
/// The time limit of one step.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The number of the measure.
const NUMBER: u8 = 17;

pub(crate) async fn measure(bench: &Bench, report: &mut Vec<Cost>) -> anyhow::Result<Vec<Row>> {
    let (documents, loads) = (bench.sized(DOCUMENTS), bench.sized(LOADS));
    let (mut publisher, head) = documents::filled(documents, BYTES).await?;
    let mut subscriber = Service::subscriber("level-1", &[publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "FEED");
    subscriber.start().await?;
    let writer = publisher.api();
    let mut rows = Vec::new();
    let services = [
        ("publisher", publisher.process()?.id(), publisher.port()),
        ("subscriber", subscriber.process()?.id(), subscriber.port()),
    ];
    for (name, process, port) in services {
        let relay = Relay::start(port).await?;
        let steps = Steps {
            name,
            process,
            port,
            relay,
            documents,
        };
        bench.say(&format!("measure 17, {name}"));
        let mut check_in = steps.row("a check-in");
        let mut load = steps.row(&format!(
            "one of {loads} loads at once of {documents} × 1 KiB"
        ));
        let mut loaded = steps.row("the same, the replica");
        let mut event = steps.row("an event on one live feed");
        for _round in 0..bench.rounds {
            check_in.figure(steps.check_ins(&head, bench.sized(CHECK_INS)).await?);
            let (above, replica) = steps.loads(loads).await?;
            load.figure(above);
            loaded.figure(replica);
            let changes = bench.sized(CHANGES);
            event.figure(steps.events(&writer, bench.sized(STREAMS), changes).await?);
        }
        let bytes = [
            Some(steps.check_in_bytes(&head).await?),
            Some(steps.load_bytes().await?),
            None,
            Some(steps.event_bytes(&writer).await?),
        ];
        let names = ["check-in", "load", "load.replica", "event"];
        for ((row, step), bytes) in [check_in, load, loaded, event]
            .into_iter()
            .zip(names)
            .zip(bytes)
        {
            let row = row.row().context("no rounds")?;
            report.push(Cost {
                name: format!("{name}.{step}"),
                seconds: Some(row.figure.median),
                bytes,
                source: format!("make bench, measure {NUMBER}: {}", row.ours),
            });
            rows.push(row);
        }
    }
    report.push(Cost {
        name: "local.event".to_owned(),
        seconds: None,
        bytes: Some(posted_bytes().await?),
        source: format!("make bench, measure {NUMBER}: a POST and its answer, through a relay"),
    });
    Ok(rows)
}

/// The steps of replicas of one service.
struct Steps {
    name: &'static str,
    process: u32,
    port: u16,
    relay: Relay,
    documents: usize,
}

impl Steps {
    fn row(&self, step: &str) -> Comparison {
        let ours = format!("processor time of a {}: {step}", self.name);
        Comparison::alone(NUMBER, Unit::Seconds, ours)
    }

    /// Processor time of the service for one check-in.
    async fn check_ins(&self, head: &Head, times: usize) -> anyhow::Result<f64> {
        let before = processor_seconds(self.process)?;
        let each = times.div_ceil(CLIENTS);
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let endpoint = endpoint(self.port)?;
            let report = report(&format!("r-{client}"), head)?;
            clients.spawn(async move {
                for _each in 0..each {
                    endpoint.check_in(&report, None).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok((processor_seconds(self.process)? - before) / (each * CLIENTS) as f64)
    }

    async fn check_in_bytes(&self, head: &Head) -> anyhow::Result<f64> {
        let endpoint = endpoint(self.relay.port)?;
        let report = report("relayed", head)?;
        let before = self.relay.passed();
        endpoint.check_in(&report, None).await?;
        Ok((self.relay.passed() - before) as f64)
    }

    /// Processor time of the service and of the replica for one of so many loads at once.
    async fn loads(&self, times: usize) -> anyhow::Result<(f64, f64)> {
        let own = std::process::id();
        let (above, here) = (processor_seconds(self.process)?, processor_seconds(own)?);
        try_join_all((0..times).map(|number| self.load(number, self.port))).await?;
        let times = times as f64;
        Ok((
            (processor_seconds(self.process)? - above) / times,
            (processor_seconds(own)? - here) / times,
        ))
    }

    async fn load_bytes(&self) -> anyhow::Result<f64> {
        let before = self.relay.passed();
        self.load(0, self.relay.port).await?;
        Ok((self.relay.passed() - before) as f64)
    }

    /// One load, with the check-in before it.
    async fn load(&self, number: usize, port: u16) -> anyhow::Result<()> {
        let loading = replica(&format!("loading-{number}"), port, Events::None, None)?;
        loading.run(current(&loading, self.documents)).await
    }

    /// Processor time of the service for one event on one stream. The write, and what the service
    /// does once for an event, are part of it.
    async fn events(
        &self,
        writer: &e2e::client::Api,
        streams: usize,
        changes: usize,
    ) -> anyhow::Result<f64> {
        let mut readers = Vec::new();
        for _stream in 0..streams {
            readers.push(Reader::open(self.port, writer).await?);
        }
        let before = processor_seconds(self.process)?;
        for number in 0..changes as u64 {
            write(writer, number).await?;
            for reader in &mut readers {
                reader.next().await?;
            }
        }
        Ok((processor_seconds(self.process)? - before) / (streams * changes) as f64)
    }

    async fn event_bytes(&self, writer: &e2e::client::Api) -> anyhow::Result<f64> {
        let mut reader = Reader::open(self.relay.port, writer).await?;
        // The first frame has the position alone, and comes before the first change.
        write(writer, 0).await?;
        reader.next().await?;
        let before = self.relay.passed();
        write(writer, 1).await?;
        reader.next().await?;
        Ok((self.relay.passed() - before) as f64)
    }
}

/// Waits until a replica is current. It must then hold this number of documents.
async fn current(replica: &Replica, documents: usize) -> anyhow::Result<()> {
    let mut states = replica.states();
    let current = timeout(
        TIMEOUT,
        states.wait_for(|state| *state == ReplicaState::Current),
    );
    drop(current.await.context("a load takes too long")??);
    let collection = FREE.parse()?;
    let view = replica.view();
    let held = view.root().collection(&collection);
    let held = held.map_or(0, state::CollectionState::count);
    ensure!(held == documents as u64, "{held} of {documents} documents");
    Ok(())
}

/// A reader of a live feed.
struct Reader(client::live_feed::LiveFeed);

impl Reader {
    async fn open(port: u16, writer: &e2e::client::Api) -> anyhow::Result<Self> {
        let head = writer.head(FREE).await?;
        let since: Since = [(head.collection, head.revision)].into();
        let start = FeedStart::After(&since, head.epoch);
        Ok(Self(endpoint(port)?.live_feed(start).await?))
    }

    async fn next(&mut self) -> anyhow::Result<()> {
        let message = timeout(TIMEOUT, self.0.next_message());
        let message = message.await.context("an event does not come")??;
        ensure!(
            matches!(message, Some(FeedMessage::Change { .. })),
            "the feed ended: {message:?}"
        );
        Ok(())
    }
}

fn endpoint(port: u16) -> anyhow::Result<Endpoint> {
    let url = Url::parse(&format!("http://127.0.0.1:{port}"))?;
    Ok(Endpoint::new(&url, Timeouts::REPLICA)?)
}

async fn write(writer: &e2e::client::Api, number: u64) -> anyhow::Result<()> {
    let name = documents::id(0);
    let value = value(number, CHANGED_BYTES);
    writer.put(FREE, &name, &value).await?.expect(200).map(drop)
}

/// The report of a replica that has everything.
fn report(instance: &str, head: &Head) -> anyhow::Result<CheckIn> {
    // As on the wire: members that a replica leaves out are absent.
    Ok(serde_json::from_value(json!({
        "instance": instance,
        "bootId": "one",
        "intervalMs": 10_000,
        "collections": { head.collection.as_str(): {
            "epoch": head.epoch,
            "revision": head.revision,
            "known": head.revision,
            "proof": head.proof,
            "state": ReplicaState::Current,
        } },
    }))?)
}

/// Bytes of one event by LOCAL: a POST to a subscriber, and the answer.
async fn posted_bytes() -> anyhow::Result<f64> {
    const TIMES: u64 = 100;
    let mut publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    let mut subscriber = Service::subscriber("posted", &[publisher.url()])?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE);
    let relay = Relay::start(subscriber.port()).await?;
    publisher.set("AURA_CONFIGURATION_EVENTS_MANAGER", "LOCAL");
    publisher.set(
        "AURA_CONFIGURATION_LOCAL_SUBSCRIBERS",
        format!("http://127.0.0.1:{}", relay.port),
    );
    publisher.start().await?;
    subscriber.start().await?;
    let (writer, reader) = (publisher.api(), subscriber.api());
    let name = id(0);
    writer
        .create(FREE, &json!({ "id": name }))
        .await?
        .expect(201)?;
    // An event that passed the relay was posted: the subscriber has another way to the publisher.
    let mut before = 0;
    for number in 0..=TIMES {
        let passed = relay.passed();
        let value = value(number, CHANGED_BYTES);
        let answer = writer.put(FREE, &name, &value).await?.expect(200)?;
        let revision = answer.json()?["revision"].clone();
        eventually("the subscriber has the change", async || {
            let held = reader.head(FREE).await?.revision;
            ensure!(revision == held && relay.passed() > passed, "not yet");
            Ok(())
        })
        .await?;
        if number == 0 {
            before = relay.passed();
        }
    }
    Ok((relay.passed() - before) as f64 / TIMES as f64)
}
