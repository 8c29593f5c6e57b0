//! Measure 13: the time from before a write is sent until both replicas show it, compared with etcd
//! and two watchers. One write at a time.
//!
//! The targets are set beside the newest etcd that is there: the one that `make bench` builds, else
//! that of the operating system.
//!
//! Each side has one server on one disk that answers when the write is durable, and three clients
//! in this process: one writes and two receive. Our server is a publisher with its embedded store
//! that posts to two replicas, each behind its own server.

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use actix_web::{App, HttpServer};
use anyhow::{Context, ensure};
use contract::CollectionName;
use e2e::{
    client::Api,
    testbed::{FREE, ports::free_port, process::folder, services::Service, wait::eventually},
};
use replica::{Config, Events, Replica, ReplicaState, Url, actix::Options};
use tokio::{sync::watch, task::JoinSet, time::timeout, try_join};
use tokio_util::sync::CancellationToken;

use crate::{
    Bench,
    figures::{Comparison, Durations, Row, Target, Unit},
    floor::etcd::{Client, Etcd, Watch},
    prepare::{create_documents, id},
    values::value,
};

const WRITES: usize = 1_000;
const WARM_UP: usize = 100;
/// Documents that are written in turn.
const DOCUMENTS: u64 = 100;
/// Length of a value, in bytes.
const BYTES: usize = 300;
/// A change that is not visible after this time counts as lost.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// Replicas check in only at their start: a change arrives by an event.
const NEVER: Duration = Duration::from_secs(3_600);

pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut etcds = Vec::new();
    for program in Etcd::programs()? {
        etcds.push(Etcd::start(&program).await?);
    }
    let ports = [free_port()?, free_port()?];
    let urls = ports.map(|port| format!("http://127.0.0.1:{port}"));
    let mut publisher = Service::publisher()?
        .with("AURA_CONFIGURATION_COLLECTIONS", FREE)
        .with("AURA_CONFIGURATION_EVENTS_MANAGER", "LOCAL")
        .with("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", urls.join(","));
    publisher.start().await?;
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    let replicas = [
        serve(ports[0], &publisher, &stop, &mut running)?,
        serve(ports[1], &publisher, &stop, &mut running)?,
    ];
    let measured = rounds(bench, &etcds, &publisher, &replicas).await;
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    measured
}

/// Follows the publisher behind a server with one worker.
pub(crate) fn serve(
    port: u16,
    publisher: &Service,
    stop: &CancellationToken,
    running: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<Replica> {
    let config = Config::new(format!("bench-{port}"), [publisher.url()], [FREE])?;
    let base_url = Some(Url::parse(&format!("http://127.0.0.1:{port}"))?);
    let replica = Replica::new(Config {
        events: Events::Posted,
        check_in: NEVER,
        base_url,
        ..config
    })?;
    let served = replica.clone();
    let server = HttpServer::new(move || {
        App::new().service(replica::actix::scope(&served, &Options::default()))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .shutdown_signal(stop.clone().cancelled_owned())
    .bind(("127.0.0.1", port))?
    .run();
    running.spawn(async move { server.await.context("the server of a replica") });
    let followed = replica.clone();
    let stopped = stop.clone().cancelled_owned();
    running.spawn(async move {
        followed.run(stopped).await;
        Ok(())
    });
    Ok(replica)
}

async fn rounds(
    bench: &Bench,
    etcds: &[Etcd],
    publisher: &Service,
    replicas: &[Replica; 2],
) -> anyhow::Result<Vec<Row>> {
    let mut ours = Ours::start(publisher, replicas).await?;
    let mut peers = Vec::new();
    for (index, etcd) in etcds.iter().enumerate() {
        let mut theirs = Theirs::start(etcd).await?;
        theirs.writes(bench.sized(WARM_UP)).await?;
        peers.push((theirs, Beside::new(&etcd.version, index == 0)));
    }
    // The disk is a part of the time until the answer.
    let mut disk = Comparison::new(
        13,
        Unit::Seconds,
        ANSWERED,
        "append 4 KiB to a file, fdatasync",
    );
    ours.writes(bench.sized(WARM_UP)).await?;
    for round in 0..bench.rounds {
        bench.say(&format!("measure 13, round {}", round + 1));
        let writes = bench.sized(WRITES);
        let mut answered = 0.0;
        for (theirs, beside) in &mut peers {
            let (here, there);
            if round % 2 == 0 {
                there = theirs.writes(writes).await?;
                here = ours.writes(writes).await?;
            } else {
                here = ours.writes(writes).await?;
                there = theirs.writes(writes).await?;
            }
            answered = beside.round(here, there);
        }
        disk.round(
            answered,
            tokio::task::spawn_blocking(move || fsyncs(writes))
                .await??
                .at(50),
        );
    }
    Ok(peers
        .into_iter()
        .flat_map(|(_theirs, beside)| beside.rows)
        .chain([disk])
        .filter_map(Comparison::row)
        .collect())
}

/// The name of the rows about the answer of a PUT.
const ANSWERED: &str = "of that, until the PUT is answered, median";

/// The rows beside one etcd: median, p99, and the median of the part until the answer.
struct Beside {
    rows: [Comparison; 3],
}

impl Beside {
    fn new(version: &str, judged: bool) -> Self {
        let line = "PUT sent until visible in both replicas, LOCAL, embedded store";
        let peer = format!("etcd {version}");
        let row = |ours: String, beside: String| Comparison::new(13, Unit::Seconds, ours, beside);
        let both = format!("{peer}, put until both watchers have it");
        let [median, tail] =
            ["median", "p99"].map(|figure| row(format!("{line}, {figure}"), both.clone()));
        let answered = row(
            ANSWERED.to_owned(),
            format!("{peer}, until the put is answered"),
        );
        let [median, tail] = [median, tail].map(|row| match judged {
            true => row.must(Target::AtMost(1.0)),
            false => row,
        });
        Self {
            rows: [median, tail, answered],
        }
    }

    /// Adds a round, and returns our median until the answer.
    fn round(&mut self, here: [Durations; 2], there: [Durations; 2]) -> f64 {
        let [mut here, mut our_answer] = here;
        let [mut there, mut their_answer] = there;
        let [median, tail, answered] = &mut self.rows;
        median.round(here.at(50), there.at(50));
        tail.round(here.at(99), there.at(99));
        answered.round(our_answer.at(50), their_answer.at(50));
        our_answer.at(50)
    }
}

/// The minimum time of the disk for the bytes that both must make durable.
fn fsyncs(times: usize) -> anyhow::Result<Durations> {
    let folder = folder()?;
    let mut durations = Durations::default();
    let mut file = File::create(folder.path().join("appended"))?;
    for _each in 0..times {
        let begun = Instant::now();
        file.write_all(&[b'x'; 4_096])?;
        file.sync_data()?;
        durations.add(begun.elapsed());
    }
    Ok(durations)
}

/// A publisher and its two replicas.
struct Ours<'a> {
    publisher: Api,
    collection: CollectionName,
    replicas: [(&'a Replica, watch::Receiver<u64>); 2],
    revision: u64,
}

impl<'a> Ours<'a> {
    async fn start(publisher: &Service, replicas: &'a [Replica; 2]) -> anyhow::Result<Self> {
        let api = publisher.api();
        let collection = FREE.parse()?;
        for replica in replicas {
            let mut states = replica.states();
            let current = timeout(
                TIMEOUT,
                states.wait_for(|state| *state == ReplicaState::Current),
            )
            .await;
            drop(current.context("a replica does not load")??);
        }
        create_documents(&api, FREE, DOCUMENTS as usize, BYTES).await?;
        // A publisher that read the routes of a subscriber too early reads them again when there is
        // an event to send.
        eventually("both replicas hear events", async || {
            let before = api.head(FREE).await?.revision;
            api.put(FREE, &id(0), &value(before, BYTES))
                .await?
                .expect(200)?;
            let applied = replicas
                .each_ref()
                .map(|replica| replica.status().events.applied);
            ensure!(
                applied.iter().all(|applied| *applied > 0),
                "{applied:?} events were applied"
            );
            Ok(())
        })
        .await?;
        let revision = api.head(FREE).await?.revision;
        let replicas = replicas
            .each_ref()
            .map(|replica| (replica, replica.feed_changed()));
        let mut ours = Self {
            publisher: api,
            collection,
            replicas,
            revision,
        };
        for (replica, moved) in &mut ours.replicas {
            let shown = timeout(TIMEOUT, shows(replica, moved, &ours.collection, revision)).await;
            shown.context("a replica lacks the first documents")??;
        }
        Ok(ours)
    }

    /// The times until both replicas show a write, and until it was answered.
    async fn writes(&mut self, writes: usize) -> anyhow::Result<[Durations; 2]> {
        let [mut durations, mut answers] = <[Durations; 2]>::default();
        for _each in 0..writes {
            self.revision += 1;
            let id = id(self.revision % DOCUMENTS);
            let value = value(self.revision, BYTES);
            let [(first, moved), (second, also_moved)] = &mut self.replicas;
            let sent = Instant::now();
            let written = async {
                self.publisher.put(FREE, &id, &value).await?.expect(200)?;
                anyhow::Ok(Instant::now())
            };
            let all = async {
                try_join!(
                    written,
                    shows(first, moved, &self.collection, self.revision),
                    shows(second, also_moved, &self.collection, self.revision)
                )
            };
            let (answer, one, other) = timeout(TIMEOUT, all)
                .await
                .context("a write is not visible")??;
            durations.add(one.max(other) - sent);
            answers.add(answer - sent);
        }
        Ok([durations, answers])
    }
}

/// The time when the view of a replica reached a revision.
pub(crate) async fn shows(
    replica: &Replica,
    moved: &mut watch::Receiver<u64>,
    collection: &CollectionName,
    revision: u64,
) -> anyhow::Result<Instant> {
    loop {
        moved.mark_unchanged();
        if replica
            .view()
            .root()
            .collection(collection)
            .is_some_and(|held| held.watermark() >= revision)
        {
            return Ok(Instant::now());
        }
        moved.changed().await?;
    }
}

/// etcd and its two watchers.
struct Theirs {
    client: Client,
    watches: [Watch; 2],
    revision: i64,
}

impl Theirs {
    async fn start(etcd: &Etcd) -> anyhow::Result<Self> {
        // One connection for all three, though our side has one for each: etcd is slightly faster
        // this way.
        let client = etcd.client().await?;
        let watches = [
            client.watch("document-").await?,
            client.watch("document-").await?,
        ];
        let revision = client.put("document-first", b"{}").await?;
        Ok(Self {
            client,
            watches,
            revision,
        })
    }

    /// The times until both watchers have a write, and until it was answered.
    async fn writes(&mut self, writes: usize) -> anyhow::Result<[Durations; 2]> {
        let [mut durations, mut answers] = <[Durations; 2]>::default();
        for _each in 0..writes {
            self.revision += 1;
            let number = u64::try_from(self.revision)?;
            let id = id(number % DOCUMENTS);
            let value = value(number, BYTES);
            let [first, second] = &mut self.watches;
            let sent = Instant::now();
            let value = value.to_string();
            let put = async {
                let revision = self.client.put(&id, value.as_bytes()).await?;
                anyhow::Ok((revision, Instant::now()))
            };
            let all =
                async { try_join!(put, has(first, self.revision), has(second, self.revision)) };
            let ((revision, answer), one, other) = timeout(TIMEOUT, all)
                .await
                .context("a watcher did not receive a put")??;
            ensure!(revision == self.revision, "another client wrote to etcd");
            durations.add(one.max(other) - sent);
            answers.add(answer - sent);
        }
        Ok([durations, answers])
    }
}

/// The time when a watcher reached a revision.
async fn has(watch: &mut Watch, revision: i64) -> anyhow::Result<Instant> {
    watch.until(revision).await?;
    Ok(Instant::now())
}
