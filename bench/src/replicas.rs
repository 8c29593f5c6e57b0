//! The time from the answer of a PUT until all of N replicas show it.
//!
//! The replicas are instances of the library in this process; the publisher is a process of its
//! own. All share the processors of one machine, so the curve shows what publisher, system and
//! replicas need together for one change. With N machines the part of the replicas would run in
//! parallel.
//!
//! **Shape of the curve.** Both lines are straight from the point where the part that depends on N
//! dominates. The cost per replica is the slope:
//!
//! - LOCAL: the publisher sends one POST per replica, all at once, from one task: a request and an
//!   answer there, two system calls at either end, and a request that is parsed, routed and answered
//!   here. All POSTs share a limit of 2 s. The circuit breaker opens for a replica that was not
//!   reached by then, and it reads the change from the heads. So the line ends where N POSTs take 2
//!   s, and much earlier on a busy machine. Every 10 s the publisher also reads the topics of each
//!   replica again, which doubles its requests: that is the upper end of the whiskers.
//! - Redis Pub/Sub: the publisher sends one PUBLISH, whatever N is. Redis writes the event to each
//!   connection, in one thread; each replica reads and parses one event. Each replica also sends a
//!   PING every 2 s: N / 2 answers per second of Redis in the background.
//!
//! - FEED, a tree of two levels: the publisher writes to one live feed per subscriber, and each
//!   subscriber to [`FAN_OUT`] of them, one per replica. Subscribers are processes of their own.
//!   A replica costs one write at its subscriber and one read here, without a request or an answer.
//!
//! Open files limit N: this process has one per replica and connection. With LOCAL the publisher
//! has as many, and with Redis the Redis server. A tree spreads them over its subscribers.
//!
//! The processor time of each part, for one replica and one change, is a cost that `make scale`
//! computes with.

pub(crate) mod confirmed;
mod counter;
mod publisher;
mod server;
mod tree;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use e2e::testbed::{FREE, Transport, redis::Redis, services::Service};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use replica::{Events, Replica, ReplicaState};
use serde_json::json;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{timeout, timeout_at},
};

pub(crate) use self::publisher::run as run_publisher;
use self::{counter::RevisionCounter, publisher::Served};
use crate::{
    Bench,
    costs::Cost,
    figures::{Comparison, Spread, Target, Unit},
    floor::payload::document,
    generator::processor_seconds,
    http::Http,
    pair::{by_channel, replica},
    report::{Curve, Report},
};

/// Numbers of replicas, with the number of changes for each.
const SIZES: [(usize, usize); 4] = [(10, 20), (100, 20), (1_000, 10), (10_000, 5)];
const ID: &str = "n-0";
/// Replicas that load concurrently.
const LOADING: usize = 64;
/// The time limit until all have loaded.
const LOADED: Duration = Duration::from_secs(90);
/// A change that did not arrive in this time does not come by an event.
const ARRIVAL: Duration = Duration::from_secs(5);
/// The number of changes per size that may fail to reach all replicas.
const MISSES: usize = 5;
/// Changes of the warm-up: each must reach all replicas.
const WARM_UP: usize = 2;
/// The time limit of each line. Results of smaller sizes are kept.
const LINE: Duration = Duration::from_secs(95);
/// Open files that a process needs in addition to one per replica.
const OTHER_FILES: u64 = 1_000;
/// The limit until all replicas of the largest size show a change, in seconds.
const ALL: f64 = 1.0;
/// Replicas of one subscriber in the tree.
const FAN_OUT: usize = 100;

/// Measure 12.
pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let files = raise_open_files()?;
    let mut lines = Vec::new();
    for (transport, name) in [
        (Transport::Local, "LOCAL"),
        (Transport::PubSub, "Redis Pub/Sub"),
        (Transport::Feed, "FEED, a tree of two levels"),
    ] {
        let line = line(bench, transport, name, files).await?;
        let (count, figure) = line.largest;
        let ours = format!("all of {count} replicas by {name}");
        let row = Comparison::alone(12, Unit::Seconds, ours).must(Target::AtMost(ALL));
        report.rows.extend(row.spread(figure));
        report.costs.extend(line.costs);
        lines.push((line.name, line.points));
    }
    report.curves.push(Curve {
        measure: 12,
        name: "replicas",
        title: "From the answer of a PUT until all replicas show it".to_owned(),
        across: "replicas".to_owned(),
        up: "seconds".to_owned(),
        lines,
    });
    Ok(())
}

/// The results of one transport.
struct Line {
    /// Its name, with what did not work.
    name: String,
    points: Vec<(f64, Spread)>,
    /// The largest size that worked.
    largest: (usize, Spread),
    /// The costs at that size.
    costs: Vec<Cost>,
}

/// The results of one size.
struct Point {
    spread: Spread,
    /// Changes that did not reach all.
    missed: usize,
    costs: Vec<Cost>,
}

/// Measures one transport at all sizes. Where a size is too large, half of it is tried, and so on,
/// to find the largest size that works.
async fn line(bench: &Bench, transport: Transport, name: &str, files: u64) -> anyhow::Result<Line> {
    let mut name = name.to_owned();
    let mut points = Vec::new();
    let mut misses = 0;
    let mut sizes = SIZES
        .map(|(replicas, changes)| (bench.sized(replicas).max(2), changes))
        .to_vec();
    sizes.dedup_by_key(|(replicas, _changes)| *replicas);
    sizes.reverse();
    let mut largest = None;
    let mut costs = Vec::new();
    let deadline = Instant::now() + LINE;
    while let Some((replicas, changes)) = sizes.pop() {
        bench.say(&format!("{name}: {replicas} replicas"));
        let point = async {
            let needed = replicas as u64 + OTHER_FILES;
            ensure!(
                needed <= files,
                "{needed} open files are needed, and the system lets a process have {files}"
            );
            point(transport, replicas, changes).await
        };
        let in_time = timeout_at(deadline.into(), point).await;
        match in_time.unwrap_or_else(|_late| Err(anyhow!("{LINE:?} are over"))) {
            Ok(point) => {
                #[expect(clippy::cast_precision_loss, reason = "a number of replicas")]
                points.push((replicas as f64, point.spread));
                misses += point.missed;
                largest = Some((replicas, point.spread));
                costs = point.costs;
            }
            Err(error) => {
                bench.say(&format!("{name}: not with {replicas} replicas: {error:#}"));
                name.push_str(&format!(" (not with {replicas})"));
                let last_good = largest.map_or(0, |(replicas, _spread)| replicas);
                sizes.clear();
                sizes.extend(
                    (replicas / 2 > last_good && Instant::now() < deadline)
                        .then_some((replicas / 2, changes)),
                );
            }
        }
    }
    let largest = largest.with_context(|| format!("no change reached all replicas by {name}"))?;
    if misses > 0 {
        name.push_str(&format!(" ({misses} changes did not reach all by events)"));
    }
    Ok(Line {
        name,
        points,
        largest,
        costs,
    })
}

/// The times of changes at this number of replicas.
async fn point(transport: Transport, count: usize, changes: usize) -> anyhow::Result<Point> {
    let crowd = Crowd::start(transport, count).await?;
    let mut taken = Vec::new();
    let mut misses = 0;
    let mut warm = 0;
    let mut number = 0;
    let mut used = crowd.processor_seconds()?;
    while taken.len() < changes {
        number += 1;
        match crowd.change(number).await? {
            Some(_took) if warm < WARM_UP => {
                warm += 1;
                used = crowd.processor_seconds()?;
            }
            // Logarithmic axes have no zero.
            Some(took) => taken.push(took.as_secs_f64().max(1e-6)),
            // The first changes open the connections, all at once.
            None if warm < WARM_UP => {
                ensure!(
                    number < 8,
                    "the first {number} changes did not reach all in {ARRIVAL:?}"
                )
            }
            None => misses += 1,
        }
        ensure!(
            misses <= MISSES,
            "{misses} of {number} changes did not reach all in {ARRIVAL:?}"
        );
    }
    let events = ((taken.len() + misses) * count) as f64;
    let costs = crowd.processor_seconds()?.into_iter().zip(used);
    let costs = costs.map(|((part, after), (_part, before))| Cost {
        name: format!("{}.{part}.event", short_name(transport)),
        seconds: Some((after - before) / events),
        bytes: None,
        source: format!("make bench, measure 12, {count} replicas: processor time for one replica"),
    });
    let costs = costs.collect();
    Ok(Point {
        spread: Spread::of(taken.into_iter()).context("no changes")?,
        missed: misses,
        costs,
    })
}

/// The transport in the name of a cost.
fn short_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Local => "local",
        Transport::PubSub => "pubsub",
        _ => "feed",
    }
}

/// Running replicas, and their publisher.
struct Crowd {
    served: Served,
    counter: Arc<RevisionCounter>,
    count: usize,
    /// The parts that an event passes, each with its processes.
    parts: Vec<(&'static str, Vec<u32>)>,
    // Dropped before the servers to which they are connected.
    _running: JoinSet<anyhow::Result<()>>,
    _servers: Vec<Http>,
    _redis: Option<Redis>,
    _subscribers: Vec<Service>,
}

impl Crowd {
    async fn start(transport: Transport, count: usize) -> anyhow::Result<Self> {
        let collections = ["--collections", FREE, "--loads", "1000"];
        let mut servers = Vec::new();
        let counter = Arc::new(RevisionCounter::new(FREE, ID)?);
        // Opened first, or another process may take the port.
        let local = server::Socket::open()?;
        let mut redis = match transport {
            Transport::PubSub => Some(Redis::new()?.with("maxclients 15000").started().await?),
            _ => None,
        };
        let url = redis.as_ref().map(Redis::url).unwrap_or_default();
        let by_redis = [
            "--events-manager",
            "REDIS",
            "--redis-delivery",
            "PUBSUB",
            "--redis-url",
            &url,
        ];
        let (options, events): (&[&str], _) = match transport {
            Transport::PubSub => (&by_redis, by_channel(&url)?),
            Transport::Local => (&["--events-manager", "LOCAL"], Events::Posted),
            // The feed needs no events.
            _ => (&["--events-enabled", "false"], Events::Feed),
        };
        let posted = transport == Transport::Local;
        let addresses = posted.then_some((count, local.port));
        let served = Served::start(&[&collections, options].concat(), addresses).await?;
        served
            .api
            .create(FREE, &json!({ "id": ID }))
            .await?
            .expect(201)?;
        let (door, server) = server::door(served.port)?;
        servers.push(Http::run(server)?);
        let subscribers = match transport {
            Transport::Feed => tree::subscribers(served.port, count.div_ceil(FAN_OUT)).await?,
            _ => Vec::new(),
        };
        let above = |one: usize| match subscribers.get(one / FAN_OUT) {
            Some(subscriber) => subscriber.port(),
            None => door,
        };
        let replicas: Vec<Replica> = (0..count)
            .map(|one| replica(&format!("r-{one}"), above(one), events.clone(), None))
            .collect::<Result<_, _>>()?;
        let mut parts = vec![("publisher", vec![served.id()])];
        if let Some(process) = redis.as_mut().and_then(Redis::process) {
            parts.push(("redis", vec![process.id()]));
        }
        let mut subscribers = subscribers;
        let processes = subscribers
            .iter_mut()
            .map(|one| Ok(one.process()?.id()))
            .collect::<anyhow::Result<Vec<u32>>>()?;
        if !processes.is_empty() {
            parts.push(("subscriber", processes));
        }
        parts.push(("replica", vec![std::process::id()]));
        if posted {
            servers.push(Http::run(local.serve(&replicas)?)?);
        }
        let places = Arc::new(Semaphore::new(LOADING));
        let loaded = watch::Sender::new(0);
        let mut all = loaded.subscribe();
        let mut running = JoinSet::new();
        for replica in replicas {
            let places = places.clone();
            let loaded = loaded.clone();
            let counter = counter.clone();
            running.spawn(async move {
                let place = places.acquire_owned().await?;
                let handle = replica.clone();
                let following = async move {
                    // Before this the replica has not checked in, and would do so during a measured
                    // change.
                    handle
                        .states()
                        .wait_for(|state| *state == ReplicaState::Current)
                        .await?;
                    drop(place);
                    loaded.send_modify(|count| *count += 1);
                    counter.follow(&handle).await
                };
                replica.run(following).await
            });
        }
        let waited = timeout(LOADED, all.wait_for(|loaded| *loaded == count))
            .await
            .map(|all| all.map(drop));
        waited
            .with_context(|| format!("{} of {count} replicas have loaded", *loaded.borrow()))??;
        Ok(Self {
            served,
            counter,
            count,
            parts,
            _running: running,
            _servers: servers,
            _redis: redis,
            _subscribers: subscribers,
        })
    }

    /// The processor time that each part has used.
    fn processor_seconds(&self) -> anyhow::Result<Vec<(&'static str, f64)>> {
        self.parts
            .iter()
            .map(|(part, processes)| {
                let used = processes.iter().map(|id| processor_seconds(*id));
                Ok((*part, used.sum::<anyhow::Result<f64>>()?))
            })
            .collect()
    }

    /// Writes one change. `None` when it did not reach all replicas in time.
    async fn change(&self, number: u64) -> anyhow::Result<Option<Duration>> {
        // There is no other writer, and the document was created with revision 1.
        let mut last = self.counter.expect(number + 1, self.count);
        let answer = self.served.api.put(FREE, ID, &document(number)).await?;
        let answered = Instant::now();
        let revision = answer.expect(200)?.json()?["revision"]
            .as_u64()
            .context("a revision")?;
        ensure!(
            revision == number + 1,
            "revision {revision} is not the next one after {number}"
        );
        let arrival = timeout(ARRIVAL, last.wait_for(Option::is_some)).await;
        let Ok(arrived) = arrival else {
            return Ok(None);
        };
        Ok(arrived?.map(|at| at.saturating_duration_since(answered)))
    }
}

/// Raises the limit of open files to the maximum that the system permits.
fn raise_open_files() -> anyhow::Result<u64> {
    let (_now, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("more open files")?;
    Ok(most)
}
