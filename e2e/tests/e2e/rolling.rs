//! Publishers and subscribers are replaced one after the other, under load and behind a load balancer,
//! as a rolling update does: no request fails, and nobody misses a change.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use contract::{
    Written,
    status::{ReplicaState, ReplicaStatus},
};
use e2e::{
    client::{Api, document_path},
    testbed::{
        FREE, Store, StoreKind,
        balancer::Balancer,
        feed_reader::{FeedEvent, FeedReader},
        numbered,
        services::Service,
        wait::eventually,
    },
};
use futures_util::future::{join, join_all};
use reqwest::Method;
use serde_json::json;

type Outcome = anyhow::Result<()>;

/// Longer than the load balancer needs to notice.
const DRAIN: Duration = Duration::from_secs(1);
/// An end takes no longer after the drain: the deadline of the tasks.
const END: Duration = Duration::from_secs(10);
const WRITERS: usize = 2;

fn drained(service: Service) -> Service {
    let seconds = DRAIN.as_secs().to_string();
    service.with("AURA_CONFIGURATION_DRAIN_SECONDS", seconds)
}

/// Clients that send requests until the update is over, and what failed.
struct Load {
    publishers: String,
    subscribers: String,
    is_over: AtomicBool,
    answered: AtomicU64,
    /// Streams that were opened again.
    resumed: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Repeats a request until the end. A failure is noted, and ends nothing.
    async fn repeat(&self, what: &str, mut request: impl AsyncFnMut() -> Outcome) {
        while !self.is_over.load(Relaxed) {
            match request().await {
                Ok(()) => drop(self.answered.fetch_add(1, Relaxed)),
                Err(error) => self.fail(format!("{what}: {error:#}")),
            }
        }
    }

    fn fail(&self, failure: String) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push(failure);
    }

    /// Writes its own document, every third time with a wait for a replica, and reads at a subscriber
    /// what it has written.
    async fn write_and_read(&self, writer: usize) {
        let (publishers, subscribers) = (self.publishers(), self.subscribers());
        let mut number = 0;
        self.repeat("a writer", async || {
            number += 1;
            let path = document_path(FREE, &format!("w{writer}"));
            let waits = number % 3 == 0;
            let put = format!("{path}{}", if waits { "?wait=1&timeout=20s" } else { "" });
            let body = numbered(number).to_string();
            let written = publishers.send(Method::PUT, &put, &[], body).await;
            let written = written.context("PUT")?.expect(200).context("PUT")?;
            let Written { revision, .. } = serde_json::from_str(&written.body)?;
            let read = format!("{path}?min-revision={revision}&timeout=20s");
            let read = subscribers.get(&read).await.context("a fresh read")?;
            let read = read.expect(200).context("a fresh read")?.json()?;
            ensure!(read["configData"] == numbered(number), "{number}: {read}");
            Ok(())
        })
        .await;
    }

    async fn list(&self, base: &str) {
        let api = Api::new(base.to_owned());
        let path = format!("/v1/collections/{FREE}/documents");
        self.repeat("a list", async || {
            let list = api.get(&path).await?.expect(200)?.json()?;
            let items = list["items"].as_array().context("items")?;
            ensure!(items.len() == WRITERS, "{list}");
            Ok(())
        })
        .await;
    }

    /// Loads as a replica does. A snapshot that was cut has no last line.
    async fn load(&self) {
        let api = self.publishers();
        self.repeat("a snapshot", async || {
            let snapshot = api.get("/v1/snapshot").await?.expect(200)?;
            let end = snapshot.body.lines().last().unwrap_or_default();
            ensure!(end.contains("\"end\":true"), "it was cut: {end}");
            Ok(())
        })
        .await;
    }

    /// Follows the feed from the start, and continues on a new connection where one has ended. Returns
    /// the newest revision: every one was read once.
    async fn follow(&self, base: &str, until: &AtomicU64) -> anyhow::Result<u64> {
        let path = format!("/v1/collections/{FREE}/changes");
        let mut feed = FeedReader::from(base, &format!("{path}?since=0")).await?;
        let mut newest = 0;
        // 0: the end is not known yet.
        while until.load(Relaxed) == 0 || newest < until.load(Relaxed) {
            match feed.next().await {
                Ok(FeedEvent::Change(_raw, data)) => {
                    ensure!(data.revision == Some(newest + 1), "{data:?} after {newest}");
                    newest += 1;
                }
                Ok(FeedEvent::Resync(end)) => anyhow::bail!("it has to load again: {end:?}"),
                ended => {
                    if let Err(error) = ended {
                        self.fail(format!("a feed broke off: {error:#}"));
                    }
                    self.resumed.fetch_add(1, Relaxed);
                    let id = feed.id.clone();
                    feed = FeedReader::after(base, &path, &id)
                        .await
                        .context("resuming")?;
                }
            }
        }
        Ok(newest)
    }

    fn publishers(&self) -> Api {
        Api::new(self.publishers.clone())
    }

    fn subscribers(&self) -> Api {
        Api::new(self.subscribers.clone())
    }
}

async fn status(subscriber: &Service) -> anyhow::Result<ReplicaStatus> {
    let answer = subscriber.api().get("/v1/status").await?.expect(200)?;
    Ok(serde_json::from_str(&answer.body)?)
}

/// Asks a service to stop, and checks that it ends with success after its drain and before the deadline.
async fn stop(service: &mut Service) -> Outcome {
    let asked = Instant::now();
    service.stop().await?;
    let took = asked.elapsed();
    ensure!(
        (DRAIN..DRAIN + END).contains(&took),
        "it ended after {took:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_rolling_update_under_load_loses_no_request_and_no_change() -> Outcome {
    let store = Store::start(StoreKind::Mongo).await?;
    let publisher = || anyhow::Ok(drained(store.publisher()?));
    let balancer = Balancer::start().await?;
    let mut publishers = vec![publisher()?, publisher()?];
    for publisher in &mut publishers {
        publisher.start().await?;
        balancer.add(publisher.port()).await?;
    }
    let subscriber = |name: &str| {
        let subscriber = Service::subscriber(name, &[balancer.url()])?;
        anyhow::Ok(drained(subscriber).with("AURA_CONFIGURATION_COLLECTIONS", FREE))
    };
    let reads = Balancer::start().await?;
    let mut subscribers = vec![subscriber("local-1")?, subscriber("local-2")?];
    for subscriber in &mut subscribers {
        subscriber.start().await?;
        reads.add(subscriber.port()).await?;
    }
    // They are never stopped: one gets events, the other follows the feed.
    let mut listener = subscriber("listener")?;
    listener.start().await?;
    let mut follower = subscriber("follower")?.with("AURA_CONFIGURATION_EVENTS_MANAGER", "FEED");
    follower.start().await?;
    let api = Api::new(balancer.url());
    for writer in 0..WRITERS {
        let document = json!({ "id": format!("w{writer}") });
        api.create(FREE, &document).await?.expect(201)?;
    }

    for subscriber in &subscribers {
        eventually("the documents arrive", async || {
            let head = subscriber.api().head(FREE).await?;
            ensure!(head.count == WRITERS as u64, "{head:?}");
            Ok(())
        })
        .await?;
    }

    let load = Load {
        publishers: balancer.url(),
        subscribers: reads.url(),
        is_over: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        resumed: AtomicU64::new(0),
        failures: Mutex::default(),
    };
    let end = AtomicU64::new(0);
    let update = async {
        for old in &mut publishers {
            let mut new = publisher()?;
            new.start().await?;
            balancer.add(new.port()).await?;
            stop(old).await?;
            balancer.remove(old.port());
            *old = new;
        }
        for subscriber in &mut subscribers {
            stop(subscriber).await?;
            subscriber.start().await?;
            reads.remove(subscriber.port());
            reads.add(subscriber.port()).await?;
        }
        anyhow::Ok(())
    };
    let update = async {
        let updated = update.await;
        load.is_over.store(true, Relaxed);
        updated
    };
    let clients = async {
        let writers = join_all((0..WRITERS).map(|writer| load.write_and_read(writer)));
        let lists = join(load.list(&load.publishers), load.list(&load.subscribers));
        join(join(writers, lists), load.load()).await;
        let revision = api.head(FREE).await.map_or(1, |head| head.revision);
        end.store(revision, Relaxed);
        // Wakes a reader that has everything already.
        api.create(FREE, &json!({"id": "last"})).await?.expect(201)
    };
    let feeds = join(
        load.follow(&load.publishers, &end),
        load.follow(&load.subscribers, &end),
    );
    let (updated, (clients, feeds)) = join(update, join(clients, feeds)).await;
    updated?;
    clients?;
    let failures = load.failures.into_inner().unwrap_or_default();
    ensure!(
        failures.is_empty(),
        "{} requests failed, {:?} were answered:\n{}",
        failures.len(),
        load.answered,
        failures.join("\n")
    );
    for newest in [feeds.0?, feeds.1?] {
        ensure!(newest >= end.load(Relaxed), "{newest} of {end:?}");
    }
    ensure!(load.resumed.load(Relaxed) >= 2, "{:?}", load.resumed);

    let truth = api.head(FREE).await?;
    let replicas = subscribers.iter().chain([&listener, &follower]);
    for replica in replicas {
        eventually("the replica is the same as the publisher", async || {
            let head = replica.api().head(FREE).await?;
            let same = (head.revision, head.digest) == (truth.revision, truth.digest);
            let status = status(replica).await?;
            ensure!(
                same && status.state == ReplicaState::Current,
                "{head:?} {status:?}"
            );
            // Nobody had to load because of the update.
            ensure!(
                status.sync.loads == 1 && status.sync.resets == 0,
                "{:?}",
                status.sync
            );
            Ok(())
        })
        .await
        .with_context(|| replica.output())?;
    }
    Ok(())
}
