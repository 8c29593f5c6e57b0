//! A publisher with a collection to load, and replicas that only loads and deltas reach.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::testbed::{Store, StoreKind, mongod::Mongod, services::Service};
use replica::{Config, Events, Replica, ReplicaState};

use super::BYTES;
use crate::{floor::driver, prepare::create_documents};

/// A collection that is loaded by one replica at a time.
pub(super) const LARGE: &str = "FreeForm";
/// A collection that many replicas load at once.
pub(super) const SMALL: &str = "FreeFormB";
/// The name of the publisher's database.
const DATABASE: &str = "confcast";
/// The time limit of a replica to become current.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A replica checks in only at its start.
const NEVER: Duration = Duration::from_secs(3_600);

/// A publisher and its store.
#[derive(Debug)]
pub(super) struct LoadTestbed {
    // Before the store, so that it ends first.
    pub(super) publisher: Service,
    store: Store,
    documents: usize,
}

impl LoadTestbed {
    /// Starts a publisher with this number of documents in [`LARGE`].
    pub(super) async fn filled(kind: StoreKind, documents: usize) -> anyhow::Result<Self> {
        let store = Store::start(kind).await?;
        let mut publisher = store
            .publisher()?
            .with("AURA_CONFIGURATION_COLLECTIONS", format!("{LARGE},{SMALL}"))
            .with("AURA_CONFIGURATION_EVENTS_ENABLED", "false");
        publisher.start().await?;
        create_documents(&publisher.api(), LARGE, documents, BYTES).await?;
        Ok(Self {
            publisher,
            store,
            documents,
        })
    }

    /// The publisher's database, for the driver.
    pub(super) async fn database(&self) -> anyhow::Result<mongodb::Database> {
        let mongod: &Mongod = self.store.0.as_ref().context("it has no database")?;
        Ok(driver::client(&mongod.url(DATABASE))
            .await?
            .database(DATABASE))
    }

    /// Seconds from `run` of a new replica until it is current. Its content is freed afterwards.
    pub(super) async fn cold_start(&self) -> anyhow::Result<f64> {
        let replica = follower(&self.publisher, LARGE, 0)?;
        let begun = Instant::now();
        let current = replica.run(until_current(&replica, self.documents)).await?;
        Ok((current - begun).as_secs_f64())
    }

    /// The value of a counter of the publisher.
    pub(super) async fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let metrics = self
            .publisher
            .api()
            .get("/metrics")
            .await?
            .expect(200)?
            .body;
        let counter = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(counter
            .with_context(|| format!("no counter {name}"))?
            .parse()?)
    }
}

/// An empty replica of one collection.
pub(super) fn follower(
    publisher: &Service,
    collection: &str,
    number: usize,
) -> anyhow::Result<Replica> {
    let config = Config::new(format!("bench-{number}"), [publisher.url()], [collection])?;
    Ok(Replica::new(Config {
        events: Events::None,
        check_in: NEVER,
        ..config
    })?)
}

/// The time when a running replica became current. It must then hold this number of documents.
pub(super) async fn until_current(replica: &Replica, documents: usize) -> anyhow::Result<Instant> {
    let mut states = replica.states();
    let current = tokio::time::timeout(
        TIMEOUT,
        states.wait_for(|state| *state == ReplicaState::Current),
    )
    .await;
    drop(current.with_context(|| format!("it is not current: {:?}", replica.status()))??);
    let then = Instant::now();
    let held: u64 = replica
        .view()
        .root()
        .collections()
        .map(|(_name, held)| held.count())
        .sum();
    ensure!(
        held == documents as u64,
        "it holds {held} of {documents} documents"
    );
    Ok(then)
}

/// The time when a running replica reached this revision.
pub(super) async fn until_at(replica: &Replica, revision: u64) -> anyhow::Result<Instant> {
    let mut moved = replica.feed_changed();
    let there = async {
        loop {
            moved.mark_unchanged();
            if replica
                .view()
                .root()
                .collections()
                .all(|(_name, held)| held.watermark() >= revision)
            {
                return anyhow::Ok(Instant::now());
            }
            moved.changed().await?;
        }
    };
    let there = tokio::time::timeout(TIMEOUT, there).await;
    there.with_context(|| format!("it is not at revision {revision}: {:?}", replica.status()))?
}
