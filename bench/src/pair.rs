//! The measured system: an embedded publisher and two replicas in this process, with everything
//! that carries events between them.
//!
//! The publisher is embedded, because the time of a commit is not visible outside. Replicas load
//! from its HTTP API and then rely on events: none checks in before the measure is over.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use actix_web::{App, HttpServer, dev::Server};
use anyhow::{Context, anyhow};
use contract::{CollectionName, DocumentId, sidecar::BulkSubscribe, signature::SigningKey};
use e2e::testbed::{
    FREE, Transport,
    ports::free_port,
    process::folder,
    redis::Redis,
    sidecar::{PUBLISHER, SUBSCRIBER, Sidecar},
    wait::eventually,
};
use publisher::{
    Publisher, Settings,
    embed::{ChangeRequest, Changes},
};
use replica::{Config, EventKeys, Events, Replica, broker};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    carrier::{Carrier, TIMEOUT},
    floor::payload::document,
    http::Http,
};

/// Longer than every measure.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

/// How long sidecars gather events, in the rows that say so.
pub(crate) const GATHERED_MS: u32 = 5;

/// A publisher and two replicas.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The publisher.
    pub(crate) changes: Changes,
    /// The replicas.
    pub(crate) replicas: [Replica; 2],
    moved: [watch::Receiver<u64>; 2],
    number: u64,
    /// The number of writes that both replicas applied before the commit had returned.
    pub(crate) early: usize,
    collection: CollectionName,
    id: DocumentId,
    stop: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
    _sidecars: Vec<Sidecar>,
    _servers: Vec<Http>,
    _redis: Option<Redis>,
    _folder: tempfile::TempDir,
}

impl Pair {
    /// Starts everything, loaded and connected, with one document. With a key the publisher signs
    /// its events, and the replicas take no others.
    pub(crate) async fn start(
        transport: Transport,
        key: Option<&SigningKey>,
    ) -> anyhow::Result<Self> {
        Self::start_with(transport, key, None).await
    }

    /// As [`Self::start`], with sidecars that gather events for [`GATHERED_MS`] milliseconds.
    pub(crate) async fn start_gathering() -> anyhow::Result<Self> {
        let bulk = BulkSubscribe::of_interval(GATHERED_MS);
        Self::start_with(Transport::Dapr, None, bulk).await
    }

    async fn start_with(
        transport: Transport,
        key: Option<&SigningKey>,
        bulk: Option<BulkSubscribe>,
    ) -> anyhow::Result<Self> {
        let folder = folder()?;
        let listen = free_port()?;
        let ports = [free_port()?, free_port()?];
        let redis = if transport == Transport::Local {
            None
        } else {
            Some(Redis::start().await?)
        };
        let mut sidecars = Vec::new();
        if let (Transport::Dapr, Some(redis)) = (transport, &redis) {
            sidecars.push(Sidecar::new(PUBLISHER, listen, "publisher", redis)?);
            for port in ports {
                sidecars.push(Sidecar::new(
                    SUBSCRIBER,
                    port,
                    &format!("replica-{port}"),
                    redis,
                )?);
            }
        }
        let store = format!("file:{}", folder.path().join("data").display());
        // The folder is there and has no schemas.
        let none = folder.path().display().to_string();
        let mut options = words([
            "--collections",
            FREE,
            "--store-url",
            &store,
            "--schemas-dir",
            &none,
        ]);
        options.extend(words(["--listen", &format!("127.0.0.1:{listen}")]));
        options.extend(match (transport, &redis, sidecars.first()) {
            (Transport::Local, ..) => {
                let urls = ports
                    .map(|port| format!("http://127.0.0.1:{port}"))
                    .join(",");
                words(["--events-manager", "LOCAL", "--local-subscribers", &urls])
            }
            (_, _, Some(sidecar)) => {
                let port = sidecar.grpc_port().to_string();
                words(["--events-manager", "DAPR", "--dapr-grpc-port", &port])
            }
            (Transport::PubSub, Some(redis), _) => words([
                "--events-manager",
                "REDIS",
                "--redis-url",
                &redis.url(),
                "--redis-delivery",
                "PUBSUB",
            ]),
            _ => anyhow::bail!("{transport:?} is not measured here"),
        });
        if let Some(key) = key {
            options.extend(words(["--signing-key-file", &written(key, folder.path())?]));
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let publisher = Publisher::build(Settings::read(&options)?).await?;
        let changes = publisher.changes();
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(publisher.run(stop.clone().cancelled_owned()));
        let events = redis
            .as_ref()
            .filter(|_| transport == Transport::PubSub)
            .map(|redis| by_channel(&redis.url()))
            .transpose()?;
        let events = events.unwrap_or(Events::Posted);
        let mut servers = Vec::new();
        let replicas = [
            replica("one", listen, events.clone(), key)?,
            replica("two", listen, events, key)?,
        ];
        for (replica, port) in replicas.iter().zip(ports) {
            if transport != Transport::PubSub {
                servers.push(Http::run(serve(replica.clone(), port, bulk)?)?);
            }
            let replica = replica.clone();
            let stop = stop.clone();
            running.spawn(async move {
                replica.run(stop.cancelled()).await;
                Ok(())
            });
        }
        for replica in &replicas {
            timeout(TIMEOUT, replica.ready())
                .await
                .context("a replica does not load")??;
        }
        for sidecar in &mut sidecars {
            sidecar.start().await?;
        }
        for sidecar in sidecars.iter().skip(1) {
            sidecar.until_subscribed().await?;
        }
        if let (Transport::PubSub, Some(redis)) = (transport, &redis) {
            eventually("both replicas listen", async || {
                anyhow::ensure!(redis.listeners().await? >= 2, "not yet");
                Ok(())
            })
            .await?;
        }
        let moved = [replicas[0].feed_changed(), replicas[1].feed_changed()];
        let mut pair = Self {
            changes,
            replicas,
            moved,
            number: 0,
            early: 0,
            collection: FREE.parse()?,
            id: "n-0".parse()?,
            stop,
            running,
            _sidecars: sidecars,
            _servers: servers,
            _redis: redis,
            _folder: folder,
        };
        pair.changes
            .unit(contract::Context::default())
            .publish(ChangeRequest::create(FREE, "n-0", &document(0))?)
            .await?;
        pair.once().await?;
        pair.early = 0;
        Ok(pair)
    }

    /// Stops in order. A drop without this leaves threads of the publisher behind.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = timeout(TIMEOUT, self.running.join_next())
            .await
            .context("it does not end")?
        {
            ended??;
        }
        Ok(())
    }

    /// Waits until both replicas have reached a revision.
    pub(crate) async fn until_all(&mut self, revision: u64) -> anyhow::Result<()> {
        for replica in 0..2 {
            while self.watermark(&self.replicas[replica]) < revision {
                self.moved[replica].changed().await?;
            }
        }
        Ok(())
    }

    /// The revision up to which a replica is complete.
    pub(crate) fn watermark(&self, replica: &Replica) -> u64 {
        replica
            .view()
            .root()
            .collection(&self.collection)
            .map_or(0, state::CollectionState::watermark)
    }

    /// Whether the replica holds the document.
    pub(crate) fn has(&self, id: &DocumentId) -> bool {
        self.replicas[0]
            .view()
            .root()
            .get(&self.collection, id)
            .is_some()
    }

    fn held_by(&self, replica: usize, revision: u64) -> bool {
        let view = self.replicas[replica].view();
        view.root()
            .get(&self.collection, &self.id)
            .is_some_and(|held| held.revision() >= revision)
    }
}

impl Carrier for Pair {
    /// The time from the return of the commit until both replicas show it. It is zero where they
    /// were faster than that return.
    async fn once(&mut self) -> anyhow::Result<Duration> {
        self.number += 1;
        let change = ChangeRequest::update(FREE, self.id.as_str(), &document(self.number))?;
        let done = self
            .changes
            .unit(contract::Context::default())
            .publish(change)
            .await?;
        let committed = Instant::now();
        if (0..2).all(|replica| self.held_by(replica, done.revision)) {
            self.early += 1;
            return Ok(Duration::ZERO);
        }
        for replica in 0..2 {
            while !self.held_by(replica, done.revision) {
                timeout(TIMEOUT, self.moved[replica].changed())
                    .await
                    .context("an event never came")??;
            }
        }
        Ok(committed.elapsed())
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

/// The path of a file with this key, which its owner alone can read.
pub(crate) fn written(key: &SigningKey, folder: &Path) -> anyhow::Result<String> {
    let path = folder.join("signing-key.pem");
    std::fs::write(&path, key.to_pem()?)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(path.display().to_string())
}

/// Events of Redis, by Pub/Sub.
pub(crate) fn by_channel(url: &str) -> anyhow::Result<Events> {
    let settings = broker::settings::RedisSettings {
        url,
        database: "",
        prefix: "",
        delivery: "PUBSUB",
    };
    let mut wrong = String::new();
    let redis = settings.check(|name, what| wrong = format!("{name}: {what}"));
    Ok(Events::Redis(Box::new(
        redis.ok_or_else(|| anyhow!(wrong))?,
    )))
}

/// A replica that loads from a publisher at this port and then relies on events.
pub(crate) fn replica(
    name: &str,
    publisher: u16,
    events: Events,
    key: Option<&SigningKey>,
) -> anyhow::Result<Replica> {
    let mut config = Config::new(name, [format!("http://127.0.0.1:{publisher}")], [FREE])?;
    (config.events, config.check_in) = (events, NEVER);
    config.event_keys = key.map(|key| EventKeys::fixed(key.public()));
    Ok(Replica::new(config)?)
}

fn serve(replica: Replica, port: u16, bulk: Option<BulkSubscribe>) -> anyhow::Result<Server> {
    let options = replica::actix::Options {
        bulk,
        ..replica::actix::Options::default()
    };
    let server =
        HttpServer::new(move || App::new().service(replica::actix::scope(&replica, &options)));
    let server = server.workers(1).disable_signals();
    Ok(server
        .bind(("127.0.0.1", port))
        .context("the port of a replica")?
        .run())
}
