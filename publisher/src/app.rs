//! The publisher put together: store, writer, relay and HTTP server under one supervisor. A service
//! may embed it, with the HTTP server or without.
//!
//! The order of the end matters and is kept here: streams end at once, no more requests, then the
//! writer finishes what was queued, then the relay what was committed.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use actix_web::{App, HttpServer, dev::Server, web};
use anyhow::Context;
use service::{
    http::{
        snapshot_slots::SnapshotSlots,
        stream_slots::{MAX_STREAMS, PeerConnection, StreamSlots},
    },
    runtime::tasks::Supervisor,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    api as routes,
    api::{Api, feed_watch::FeedWatch},
    decide::{Rules, schemas::Schemas},
    embed::Changes,
    fleet,
    fleet::fleet,
    metrics::Metrics,
    outbox::{relay, relay::Relay, retention::Retention},
    settings::{Events, ManagerSettings, Settings},
    store::{PublisherPolicy, Store},
    transport::{
        Manager,
        cloudevent::Envelopes,
        dapr::Dapr,
        direct::{Local, Subscribers},
        redis::Redis,
    },
    write::queue::writer,
};

/// Threads that serve requests.
const HTTP_WORKERS: usize = 2;
/// How long requests under way may take at the end, in seconds.
const HTTP_GRACE_SECONDS: u64 = 5;
/// An idle connection is kept for this long.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long the headers of a request may take to arrive; its body has a budget of its own.
const HEADERS: Duration = Duration::from_secs(5);
/// How long a client may take to close a connection, or to send what nobody will read.
const DISCONNECT: Duration = Duration::from_secs(1);

/// A publisher whose store is open, and its port if it has one. Its tasks run; what they need at
/// the end is [`Publisher::run`].
pub struct Publisher {
    api: web::Data<Api>,
    http: Option<(SocketAddr, Server)>,
    no_more_requests: CancellationToken,
    supervisor: Supervisor,
}

impl Publisher {
    /// Opens the store and the port. Port 0 takes a free one.
    ///
    /// # Errors
    /// When the schemas, the store, the event manager or the port cannot be had.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        let listen = settings.listen;
        let mut publisher = Self::without_http(settings).await?;
        publisher.listen(listen)?;
        Ok(publisher)
    }

    /// Opens the store and no port: for a service that writes, beside publishers that replicas can
    /// ask.
    ///
    /// # Errors
    /// When the schemas, the store or the event manager cannot be had.
    pub async fn without_http(settings: Settings) -> anyhow::Result<Self> {
        let Settings {
            store,
            listen: _,
            mut collections,
            schemas_dir,
            document_limit,
            log_keep,
            forget_replicas,
            loads,
            events,
        } = settings;
        let rules = Rules {
            schemas: Schemas::read(&schemas_dir)?,
            document_limit,
        };
        collections.extend(rules.schemas.collections().cloned());
        let terms = Arc::new(PublisherPolicy {
            collections,
            rules,
            events_enabled: events.is_some(),
        });
        let name = format!("{store:?}");
        let store = Store::open(&store, terms.clone())
            .await
            .with_context(|| format!("opening the store {name}"))?;
        info!(store = name, events = ?events.as_ref().map(|events| &events.manager), "the store is open");

        let mut supervisor = Supervisor::default();
        let no_more_requests = CancellationToken::new();
        let (feed, streams) = (
            FeedWatch::default(),
            StreamSlots::new(MAX_STREAMS, supervisor.stop()),
        );
        supervisor.spawn(
            "feed",
            feed.clone()
                .run(store.clone(), terms.collections.clone(), supervisor.stop()),
        );
        supervisor.spawn("streams", streams.clone().run());
        let (relay_sender, changes) = mpsc::channel(relay::QUEUE);
        let (writer, writer_task) = writer(store.clone(), relay_sender, feed.clone());
        supervisor.spawn("writer", writer_task.run(no_more_requests.clone()));
        let metrics = Arc::<Metrics>::default();
        let mut local = None;
        supervisor.spawn(
            "retention",
            Retention::new(store.clone(), log_keep).run(supervisor.stop()),
        );
        if let Some(events) = events {
            let manager = manager(events, terms.clone()).context("the event manager")?;
            local = manager.subscribers();
            supervisor.spawn(
                "relay",
                Relay::new(store.clone(), manager, changes, metrics.clone())?.run(),
            );
        }
        let (fleet, tasks) = fleet(store.clone(), forget_replicas, local, metrics.clone());
        let fleet::Tasks {
            desk,
            keeper,
            epochs,
        } = tasks;
        supervisor.spawn("check-ins", desk.run(no_more_requests.clone()));
        supervisor.spawn("fleet", keeper.run(no_more_requests.clone()));
        supervisor.spawn("epochs", epochs.run(no_more_requests.clone()));

        let snapshots = SnapshotSlots::new(loads);
        supervisor.spawn("snapshots", snapshots.clone().run(supervisor.stop()));

        let api = web::Data::new(Api {
            store,
            writer,
            terms,
            fleet,
            snapshots,
            feed,
            streams,
            metrics,
        });
        Ok(Self {
            api,
            http: None,
            no_more_requests,
            supervisor,
        })
    }

    fn listen(&mut self, listen: SocketAddr) -> anyhow::Result<()> {
        let api = self.api.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(api.clone())
                .configure(routes::configure)
        })
        .workers(HTTP_WORKERS)
        .on_connect(PeerConnection::remember)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEADERS)
        .client_disconnect_timeout(DISCONNECT)
        .shutdown_timeout(HTTP_GRACE_SECONDS)
        .shutdown_signal(self.supervisor.stop().cancelled_owned())
        .bind(listen)
        .with_context(|| format!("listening on {listen} (AURA_CONFIGURATION_LISTEN)"))?;
        let address = *server.addrs().first().context("no address")?;
        self.http = Some((address, server.run()));
        Ok(())
    }

    /// Where the HTTP API listens, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(address, _server)| *address)
    }

    /// The way to publish from this process.
    pub fn changes(&self) -> Changes {
        Changes::new(
            self.api.writer.clone(),
            self.api.terms.clone(),
            self.api.metrics.clone(),
        )
    }

    /// Serves until `shutdown` resolves, then ends in order.
    ///
    /// # Errors
    /// When a task failed or ended by itself; what `shutdown` stands for is then let go.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            api,
            http,
            no_more_requests,
            mut supervisor,
        } = self;
        // What the tasks do not hold is free when they end.
        drop(api);
        let stop = supervisor.stop();
        match &http {
            Some((address, _server)) => info!(%address, "the publisher is up"),
            None => info!("the publisher is up, without HTTP"),
        }
        supervisor.spawn("http server", async move {
            let ended = match http {
                Some((_address, server)) => server.await.context("the HTTP server"),
                None => {
                    stop.cancelled().await;
                    Ok(())
                }
            };
            no_more_requests.cancel();
            ended
        });
        supervisor.run(shutdown).await
    }
}

fn manager(events: Events, terms: Arc<PublisherPolicy>) -> anyhow::Result<Manager> {
    let Events {
        manager,
        pub_sub_name,
        ttl_seconds,
        data_limit,
    } = events;
    let envelopes = Envelopes {
        pub_sub_name,
        ttl_seconds,
        data_limit,
        terms,
    };
    match manager {
        ManagerSettings::Dapr {
            endpoint,
            api_token,
        } => Dapr::new(endpoint, api_token.as_deref(), envelopes).map(Manager::Dapr),
        ManagerSettings::Local {
            subscribers,
            allowed,
            api_token,
        } => Local::new(Subscribers::new(subscribers, allowed, api_token), envelopes)
            .map(Manager::Local),
        ManagerSettings::Redis {
            redis,
            keep,
            by_document,
        } => Ok(Manager::Redis(Box::new(Redis::new(
            redis,
            keep,
            by_document,
            envelopes,
        )))),
    }
}
