//! From the answer of a PUT until all of so many replicas show it.
//!
//! The replicas are instances of the library in this process, the publisher is a process of its
//! own. So all of them share the processors of one machine, and what is drawn is what the
//! publisher, the system and the replicas need together for one change: with N machines the part of
//! the replicas would be there at once.
//!
//! **Why it grows as it does.** Both lines are straight from the point on where the part that
//! depends on N outweighs the rest, and what costs per replica makes the slope:
//!
//! - LOCAL: one POST of the publisher each. An event is sent to all of them at once, on one task of
//!   the publisher: a request and an answer there, two system calls at either end, a request that
//!   is parsed, routed and answered here. Each POST has 2 s from the beginning of *all* of them; a
//!   replica that was not reached by then is suspect, and hears of the change from the heads. So
//!   the line ends where N POSTs take 2 s, and a good deal earlier on a busy machine. Every 10 s a
//!   change also asks each replica anew which topics it wants, which doubles its requests: that is
//!   the upper end of the whiskers.
//! - Redis Pub/Sub: one PUBLISH of the publisher, whatever N is. Redis writes the event to each
//!   connection, in one thread; here it is one read and one parsed event each. Besides, each
//!   replica asks every 2 s whether its connection lives: N / 2 answers a second of Redis in the
//!   background.
//!
//! What bounds N: open files. A process may have so many as the system allows, here one per replica
//! and connection, and LOCAL has as many in the publisher, Redis in itself.

mod counter;
mod publisher;
mod server;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use e2e::testbed::{FREE, Transport, redis::Redis};
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
    figures::Spread,
    floor::payload::document,
    http::Http,
    pair::{by_channel, replica},
    report::Curve,
};

/// How many replicas, and how many changes each time.
const SIZES: [(usize, usize); 4] = [(10, 20), (100, 20), (1_000, 10), (10_000, 5)];
const ID: &str = "n-0";
/// Replicas that load at once.
const LOADING: usize = 64;
/// Until all of them have loaded.
const LOADED: Duration = Duration::from_secs(90);
/// What did not arrive by then comes by no event.
const ARRIVAL: Duration = Duration::from_secs(5);
/// How many changes may fail to reach all of them, per size.
const MISSES: usize = 5;
/// Changes that reach all, one after the other, before anything is measured.
const WARM_UP: usize = 2;
/// Each line gets so long: what is known of the smaller sizes by then is not lost.
const LINE: Duration = Duration::from_secs(135);
/// Open files that a process needs besides one per replica.
const OTHER_FILES: u64 = 1_000;

/// Measure 12.
pub(crate) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Curve>> {
    let files = raise_open_files()?;
    let lines = vec![
        line(bench, Transport::Local, "LOCAL", files).await?,
        line(bench, Transport::PubSub, "Redis Pub/Sub", files).await?,
    ];
    Ok(vec![Curve {
        measure: 12,
        name: "replicas",
        title: "From the answer of a PUT until all replicas show it".to_owned(),
        across: "replicas".to_owned(),
        up: "seconds".to_owned(),
        lines,
    }])
}

/// One way for all sizes. Where one is too many, half of it is tried, and so on: the largest that
/// works is worth knowing.
async fn line(
    bench: &Bench,
    transport: Transport,
    name: &str,
    files: u64,
) -> anyhow::Result<(String, Vec<(f64, Spread)>)> {
    let mut name = name.to_owned();
    let mut points = Vec::new();
    let mut misses = 0;
    let mut sizes = SIZES
        .map(|(replicas, changes)| (bench.sized(replicas).max(2), changes))
        .to_vec();
    sizes.dedup_by_key(|(replicas, _changes)| *replicas);
    sizes.reverse();
    let mut last_good = 0;
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
            Ok((spread, missed)) => {
                #[expect(clippy::cast_precision_loss, reason = "a number of replicas")]
                points.push((replicas as f64, spread));
                misses += missed;
                last_good = replicas;
            }
            Err(error) => {
                bench.say(&format!("{name}: not with {replicas} replicas: {error:#}"));
                name.push_str(&format!(" (not with {replicas})"));
                sizes.clear();
                sizes.extend(
                    (replicas / 2 > last_good && Instant::now() < deadline)
                        .then_some((replicas / 2, changes)),
                );
            }
        }
    }
    ensure!(
        !points.is_empty(),
        "no change reached all replicas by {name}"
    );
    if misses > 0 {
        name.push_str(&format!(" ({misses} changes did not reach all by events)"));
    }
    Ok((name, points))
}

/// What so many replicas need for a change, and how many changes did not reach all of them.
async fn point(
    transport: Transport,
    count: usize,
    changes: usize,
) -> anyhow::Result<(Spread, usize)> {
    let crowd = Crowd::start(transport, count).await?;
    let mut taken = Vec::new();
    let mut misses = 0;
    let mut warm = 0;
    let mut number = 0;
    while taken.len() < changes {
        number += 1;
        match crowd.change(number).await? {
            Some(_took) if warm < WARM_UP => warm += 1,
            // Logarithmic axes have no zero.
            Some(took) => taken.push(took.as_secs_f64().max(1e-6)),
            // Connections are made with the first ones, all at once.
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
    Ok((Spread::of(taken.into_iter()).context("no changes")?, misses))
}

/// Replicas that run, and their publisher.
struct Crowd {
    served: Served,
    counter: Arc<RevisionCounter>,
    count: usize,
    // Before what they are connected to.
    _running: JoinSet<anyhow::Result<()>>,
    _servers: Vec<Http>,
    _redis: Option<Redis>,
}

impl Crowd {
    async fn start(transport: Transport, count: usize) -> anyhow::Result<Self> {
        let collections = ["--collections", FREE, "--loads", "1000"];
        let mut servers = Vec::new();
        let counter = Arc::new(RevisionCounter::new(FREE, ID)?);
        // Before anything of it, or the port may be taken.
        let local = server::Socket::open()?;
        let redis = match transport {
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
        let (options, events): (&[&str], _) = match &redis {
            Some(_) => (&by_redis, by_channel(&url)?),
            None => (&["--events-manager", "LOCAL"], Events::Posted),
        };
        let subscribers = redis.is_none().then_some((count, local.port));
        let served = Served::start(&[&collections, options].concat(), subscribers).await?;
        served
            .api
            .create(FREE, &json!({ "id": ID }))
            .await?
            .expect(201)?;
        let (door, server) = server::door(served.port)?;
        servers.push(Http::run(server)?);
        let replicas: Vec<Replica> = (0..count)
            .map(|one| replica(&format!("r-{one}"), door, events.clone()))
            .collect::<Result<_, _>>()?;
        if redis.is_none() {
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
                    // Until then it has not checked in, and would do so while changes are measured.
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
            _running: running,
            _servers: servers,
            _redis: redis,
        })
    }

    /// One change; `None` when it did not reach all in time.
    async fn change(&self, number: u64) -> anyhow::Result<Option<Duration>> {
        // Nobody else writes, and the document was made with revision 1.
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

/// As many open files as the system lets a process have.
fn raise_open_files() -> anyhow::Result<u64> {
    let (_now, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("more open files")?;
    Ok(most)
}
