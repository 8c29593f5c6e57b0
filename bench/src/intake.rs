//! Measures 5 and 6: events into a subscriber process, over HTTP as a sidecar posts them, compared
//! with a route that answers a constant (5) and with a subscriber in Node.js (6). Measure 5 also
//! compares signed events with unsigned ones.
//!
//! Events equal those of a sidecar, each with the next revision, so that each is applied; the
//! status confirms it afterwards. The timed part is the run of the generator: answers per second.
//! No event is posted twice, and no publisher runs meanwhile.

use anyhow::{Context, ensure};
use contract::{
    Head,
    event::{MEDIA_TYPE, ROUTE},
    signature::SigningKey,
    status::ReplicaStatus,
};
use e2e::{
    client::Api,
    testbed::{process::folder, services::Service},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use publisher::{Settings, bench_support::envelopes};
use reqwest::Method;

use crate::{
    Bench, documents,
    figures::{Comparison, Row, Target, Unit},
    floor::{constant, node, server::Server},
    generator::{self, CONNECTIONS, Compared, Order, Processors, Requests, Run},
    pair::written,
};

/// Documents, which are updated in turn.
const DOCUMENTS: usize = 1_000;
/// Bytes of a value.
const BYTES: usize = 300;
/// More events than are answered in a run. Otherwise the run ends with the last event.
const EVENTS: usize = 200_000;
/// Events of the warm-up.
const WARM_UP: usize = 5_000;
/// A subscriber that logs more lines than this logs something for each event.
const LINES: usize = 100;

pub(crate) async fn measure(number: u8, bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (mut publisher, head) = documents::filled(DOCUMENTS, BYTES).await?;
    publisher.stop().await?;
    let warm_up = bench.sized(WARM_UP);
    bench.say("writing the events down");
    let count = warm_up + bench.sized(EVENTS);
    let events = Events::of(&head, warm_up, count, None)?;
    let key = SigningKey::from_seed(&[7; 32]);
    let signed = (number == 5)
        .then(|| Events::of(&head, warm_up, count, Some(&key)))
        .transpose()?;

    let (server, beside, target, processors) = if number == 5 {
        let beside = "actix: reads the body, answers a constant";
        (constant::start("{}").await?, beside, 0.6, Processors::Apart)
    } else {
        // Both run as in production: helper threads of Node.js may use another processor, and our
        // subscriber has two workers.
        (
            node::start().await?,
            "Express and the CloudEvents SDK, Node.js",
            12.0,
            Processors::Shared,
        )
    };
    let rate = Comparison::new(
        number,
        Unit::PerSecond,
        "events applied, 64 connections",
        beside,
    )
    .must(Target::AtLeast(target));
    let processor = Comparison::new(number, Unit::Seconds, "processor time of an event", beside);
    let mut compared = Compared::new(rate, processor);
    let unsigned = "the same, unsigned";
    let row = "events applied, 64 connections, signed";
    let rate = Comparison::new(number, Unit::PerSecond, row, unsigned);
    let row = "processor time of a signed event";
    let processor = Comparison::new(number, Unit::Seconds, row, unsigned);
    let mut signatures = Compared::new(rate, processor);
    for round in 0..bench.rounds {
        let ours =
            async |publisher: &mut Service| of_ours(bench, &events, publisher, processors).await;
        let beside = async || of_beside(bench, &events, &server, number, processors).await;
        let (ours, beside) = if round % 2 == 0 {
            (ours(&mut publisher).await?, beside().await?)
        } else {
            let beside = beside().await?;
            (ours(&mut publisher).await?, beside)
        };
        compared.round(&ours, &beside);
        if let Some(signed) = &signed {
            let signed = of_ours(bench, signed, &mut publisher, processors).await?;
            signatures.round(&signed, &ours);
        }
    }
    Ok([compared.rows(), signatures.rows()].concat())
}

/// A new subscriber each time, because each event can be applied only once.
async fn of_ours(
    bench: &Bench,
    events: &Events,
    publisher: &mut Service,
    processors: Processors,
) -> anyhow::Result<Run> {
    publisher.start().await?;
    let mut subscriber = documents::subscriber(publisher)?;
    if let Some(keys) = &events.keys {
        let file = subscriber.folder().join("event-keys.pem");
        std::fs::write(&file, keys)?;
        let file = file.display().to_string();
        subscriber.set("AURA_CONFIGURATION_EVENT_KEYS_FILE", file);
    }
    subscriber.start().await?;
    publisher.stop().await?;
    let api = subscriber.api();
    events.warm_up(&api).await?;
    let url = subscriber.url();
    let id = subscriber.process()?.id();
    let run = generator::run(bench, (&url, id), events.rest(), processors).await?;
    let status: ReplicaStatus =
        serde_json::from_str(&api.get("/v1/status").await?.expect(200)?.body)?;
    check(status.events.applied, events, run.answered())?;
    let lines = subscriber.output().lines().count();
    ensure!(
        lines <= LINES,
        "the log has {lines} lines: {}",
        subscriber.process()?.tail()
    );
    Ok(run)
}

async fn of_beside(
    bench: &Bench,
    events: &Events,
    server: &Server,
    number: u8,
    processors: Processors,
) -> anyhow::Result<Run> {
    let api = server.api();
    let before = if number == 6 { applied(&api).await? } else { 0 };
    events.warm_up(&api).await?;
    let run = generator::run(
        bench,
        (server.url(), server.id()),
        events.rest(),
        processors,
    )
    .await?;
    if number == 6 {
        check(applied(&api).await? - before, events, run.answered())?;
    }
    Ok(run)
}

async fn applied(api: &Api) -> anyhow::Result<u64> {
    let status = api.get("/v1/status").await?.expect(200)?.json()?;
    status
        .pointer("/events/applied")
        .and_then(serde_json::Value::as_u64)
        .context("no number of events")
}

/// Checks that the answered events were applied. Events in flight at the end have no answer, and
/// may have been applied.
fn check(applied: u64, events: &Events, answered: u64) -> anyhow::Result<()> {
    let answered = answered + events.first.len() as u64;
    ensure!(
        (answered..=answered + CONNECTIONS).contains(&applied),
        "{answered} were answered, {applied} applied"
    );
    Ok(())
}

/// The events of a run.
#[derive(Debug)]
struct Events {
    /// The bodies of the warm-up.
    first: Vec<Vec<u8>>,
    /// All bodies.
    all: Requests,
    /// The public key of signed events, in PEM.
    keys: Option<String>,
}

impl Events {
    /// The given number of changes after a head, signed where there is a key.
    fn of(
        head: &Head,
        first: usize,
        count: usize,
        key: Option<&SigningKey>,
    ) -> anyhow::Result<Self> {
        let folder = folder()?;
        let file = key.map(|key| written(key, folder.path())).transpose()?;
        let mut options = vec!["--collections", head.collection.as_str()];
        options.extend(file.iter().flat_map(|file| ["--signing-key-file", file]));
        let settings = Settings::read(&options)?;
        let envelopes = envelopes(&settings.events.context("events are off")?);
        let body = |number| {
            envelopes.for_subscriber(&documents::update(head, number, number % DOCUMENTS, BYTES)?)
        };
        Ok(Self {
            first: (0..first).map(body).collect::<anyhow::Result<_>>()?,
            all: Requests::write((0..count).map(|number| Ok(request(&body(number)?))))?,
            keys: key.map(|key| key.public().to_pem()).transpose()?,
        })
    }

    /// Posts the warm-up events, as concurrently as the generator. The generator itself abandons
    /// requests in flight at its end, and the missing events must not slow down the measured ones.
    async fn warm_up(&self, api: &Api) -> anyhow::Result<()> {
        let headers = [("content-type", MEDIA_TYPE)];
        let post = async |body: &Vec<u8>| {
            api.send(Method::POST, ROUTE, &headers, body.clone())
                .await?
                .expect(200)
                .map(drop)
        };
        stream::iter(&self.first)
            .map(post)
            .buffer_unordered(CONNECTIONS as usize)
            .try_collect()
            .await
    }

    fn rest(&self) -> (&Requests, Order) {
        (&self.all, Order::OnceAfter(self.first.len()))
    }
}

/// Posts an event as a sidecar does.
fn request(body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\n\
         Content-Type: {MEDIA_TYPE}\r\nAccept-Encoding: gzip\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}
