//! The publisher as a whole: it opens the store, starts the tasks and the HTTP server, and ends them
//! in order. A service may embed it, with the HTTP server or without. No rule about documents is
//! decided here.
//!
//! # Order of the start
//!
//! 1. Schemas and policy, then the transport: wrong settings end the start before anything runs.
//!    No transport connects here; a sidecar or a Redis may start later.
//! 2. The store. A MongoDB that does not answer at once is waited for by a task; the process is not
//!    ready meanwhile.
//! 3. The tasks: the store, the feed watcher, the relay and the writer that feeds it, retention, the
//!    scrub, the probe, the fleet, the schemas and the connections.
//! 4. The port, last: a replica that connects finds everything running.
//!
//! # Order of the end
//!
//! 1. [`Publisher::drain`], where the settings give it time: not ready, and everything is served.
//! 2. `stop`: streams and snapshots end at once, the port closes, and requests that have begun get
//!    a short time to finish.
//! 3. `no_more_requests`, when the HTTP server has ended: the writer commits what was queued, and the
//!    fleet writes the last check-ins.
//! 4. The relay ends when the writer has ended and everything that it committed was sent, or a time
//!    limit is over. Events that are left are sent after the next start.

use std::{future::Future, net::SocketAddr, sync::Arc};

use ::tls::ServerTls;
use actix_web::{App, dev::Server, web};
use anyhow::Context;
use auth::{Authenticator, StoreTokens};
use contract::CollectionName;
use service::{
    http::{
        access::{Layer, SidecarToken},
        bodies::Bodies,
        connections::Connections,
        guard::{GuardSettings, warn_when_open},
        limits::LimitSettings,
        rate::Rates,
        server,
        shared_text::SharedTexts,
        snapshot_slots::SnapshotSlots,
        stream_slots::StreamSlots,
    },
    runtime::{drain::Drain, tasks::Supervisor},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api as routes,
    api::{Api, health::Readiness, load_heads::LoadHeads},
    audit::{self, Audit},
    dead_letters::DeadLetters,
    decide::{Rules, Sealing, schemas::Schemas},
    embed::Changes,
    feed_watch::FeedWatch,
    fleet::Fleet,
    metrics::Metrics,
    outbox::{relay, relay::Relay, retention::Retention},
    probe::Probe,
    repair::{Scrub, repairs},
    schema_folder::SchemaWatch,
    secret_rotation::SecretRotation,
    settings::{Events, Settings, TransportSettings},
    store::{PublisherPolicy, ServedCollections, Store},
    token_watch::TokenWatch,
    transport::{
        Transport,
        cloudevent::EventEncoder,
        confirm::Confirmations,
        dapr::DaprTransport,
        direct::{DirectTransport, SubscriberRegistry},
        redis::RedisTransport,
    },
    write::queue::writer,
};

/// What a peer can do that reaches the port: the publisher knows no users.
const PEERS: &str = "every peer can read and change all documents, and declare a new epoch";

/// A publisher whose store is open and whose tasks run; its port is open if it has one. Call
/// [`Publisher::run`] to serve and to end in order.
pub struct Publisher {
    api: web::Data<Api>,
    connections: Connections,
    layer: Layer,
    http: Option<(SocketAddr, Server)>,
    no_more_requests: CancellationToken,
    supervisor: Supervisor,
}

impl Publisher {
    /// Opens the store and the port. Port 0 takes a free one.
    ///
    /// Dropping the future ends the start: tasks that were started end, and what the store has is
    /// whole. A service that embeds the publisher does so when it is asked to stop meanwhile.
    ///
    /// # Errors
    /// When the schemas or the settings of the transport are wrong, or the store or the port cannot
    /// be opened.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        let listen = settings.listen;
        let guard = settings.guard.clone();
        let limits = settings.limits;
        let tls = settings.tls.clone();
        let mut publisher = Self::without_http(settings).await?;
        publisher.listen(listen, guard, limits, tls)?;
        Ok(publisher)
    }

    /// Opens the store and no port: for a service that writes, where other publishers serve the
    /// replicas.
    ///
    /// # Errors
    /// When the schemas or the settings of the transport are wrong, or the store cannot be opened.
    pub async fn without_http(settings: Settings) -> anyhow::Result<Self> {
        // 1. What may be written, and the transport.
        let policy = Arc::new(policy(&settings));
        let audits = settings.audit.is_on(!settings.authenticator.is_open());
        let (sidecar_pubsub, sidecar_token) =
            settings.events.as_ref().map(sidecar).unwrap_or_default();
        let signer = settings
            .events
            .as_ref()
            .and_then(|events| events.signer.clone());
        let confirmations = Confirmations::default();
        let transport = match settings.events {
            Some(events) => Some(Arc::new(
                transport(
                    events,
                    policy.clone(),
                    settings.publisher_limits.limit_local_subscribers,
                    &settings.authenticator,
                    confirmations.clone(),
                )
                .context("the transport")?,
            )),
            None => None,
        };
        let subscribers = transport.as_deref().and_then(Transport::subscribers);

        // 2. The store.
        let store_name = format!("{:?}", settings.store);
        let store = Store::open(&settings.store, policy.clone())
            .await
            .with_context(|| format!("opening the store {store_name}"))?;
        info!(
            store = store_name,
            events_enabled = transport.is_some(),
            "the store is configured"
        );

        // Before anything is written.
        let (audit, audit_task) = if audits {
            let (audit, task) = Audit::new(store.clone(), &settings.audit);
            (audit, Some(task))
        } else {
            (Audit::default(), None)
        };

        // 3. The tasks. `stop` ends a task at once; `no_more_requests` lets it finish its work.
        let mut supervisor = Supervisor::default();
        let stop = supervisor.stop();
        let no_more_requests = CancellationToken::new();
        let metrics = Arc::<Metrics>::default();

        supervisor.spawn("store", {
            let (store, stop) = (store.clone(), stop.clone());
            async move {
                // Requests get 503 until it is open; see the health routes.
                if let Some(opened) = stop.run_until_cancelled(store.until_open()).await {
                    opened.context("opening the store")?;
                    warn_of_collections(&store).await;
                    stop.cancelled().await;
                }
                Ok(())
            }
        });
        let feed = FeedWatch::default();
        let feed_task = feed.clone().run(store.clone(), stop.clone());
        supervisor.spawn("feed", feed_task);
        let connections = Connections::new(settings.limits.connections());
        supervisor.spawn("connections", connections.clone().run(stop.clone()));
        let stream_limits = settings.limits.streams(connections.limits());
        let streams = StreamSlots::new(stream_limits, stop.clone());

        let (relay_sender, changes) = mpsc::channel(relay::QUEUE);
        let (writer, writer_task) = writer(
            store.clone(),
            relay_sender,
            feed.clone(),
            settings.publisher_limits.limit_queued_writes,
        );
        supervisor.spawn(
            "writer",
            writer_task.run(stop.clone(), no_more_requests.clone()),
        );
        let dead_letters = DeadLetters::new(store.clone(), transport.clone(), metrics.clone())
            .of_signed_events(signer.clone());
        // What calls the store by itself begins when it is open: before that every call fails.
        let when_open = WhenOpen {
            store: store.clone(),
            stop: stop.clone(),
        };
        if let Some(transport) = transport {
            let relay = Relay::new(store.clone(), transport, changes, metrics.clone())?;
            supervisor.spawn("relay", when_open.run(relay.run()));
        }
        let of_audit = signer.clone();
        if let Some(signer) = signer {
            let id = signer.id();
            info!(%id, "events are signed with the key {id}");
            supervisor.spawn("signing key", signer.run(stop.clone()));
        }
        let retention = Retention::new(store.clone(), settings.log_keep);
        supervisor.spawn("retention", when_open.run(retention.run(stop.clone())));

        if let Some(task) = audit_task {
            let authenticator = settings.authenticator.clone();
            let watched =
                audit::watch_configuration(audit.clone(), authenticator, of_audit, stop.clone());
            supervisor.spawn("audited configuration", watched);
            supervisor.spawn("audit", task.run(no_more_requests.clone()));
            let trimmed = audit::retention(store.clone(), settings.audit, stop.clone());
            supervisor.spawn("audit retention", when_open.run(trimmed));
        }

        let scrub = Scrub::new(store.clone(), settings.scrub_rows_per_second);
        supervisor.spawn("scrub", when_open.run(scrub.run(stop.clone())));

        let (fleet, fleet_tasks) = Fleet::new(
            store.clone(),
            settings.publisher_limits.limit_check_ins,
            settings.forget_replicas,
            subscribers,
            confirmations,
            metrics.clone(),
        );
        supervisor.spawn(
            "check-ins",
            fleet_tasks.check_ins.run(no_more_requests.clone()),
        );
        supervisor.spawn(
            "replica registry",
            when_open.run(fleet_tasks.registry.run(no_more_requests.clone())),
        );
        supervisor.spawn("restore", fleet_tasks.restore.run(no_more_requests.clone()));

        let (repairs, repair_task) = repairs(store.clone(), fleet.clone());
        supervisor.spawn("repair", repair_task.run(stop.clone()));

        if let Some(probe) = settings.probe {
            let probe = Probe::new(probe, store.clone(), writer.clone(), metrics.clone());
            supervisor.spawn("probe", when_open.run(probe.run(stop.clone())));
        }

        let schema_watch = SchemaWatch::new(settings.schemas_dir, store.clone());
        supervisor.spawn("schemas", when_open.run(schema_watch.run(stop.clone())));

        let authenticator = settings.authenticator;
        let store_tokens = StoreTokens::default();
        authenticator.use_store(store_tokens.clone());
        let tokens = TokenWatch::new(store.clone(), store_tokens);
        supervisor.spawn("tokens", when_open.run(tokens.clone().run(stop.clone())));
        supervisor.spawn("credentials", {
            let (authenticator, stop) = (authenticator.clone(), stop.clone());
            async move {
                let reading = authenticator.keep_up_to_date();
                stop.run_until_cancelled(reading).await;
                Ok(())
            }
        });

        let rates = settings
            .limits
            .rates(settings.publisher_limits.limit_writes_per_second);
        let rates = Rates::new(rates, &routes::table());

        let rotation = SecretRotation::new(
            store.clone(),
            writer.clone(),
            metrics.clone(),
            audit.clone(),
        );
        supervisor.spawn(
            "secret key rotation",
            when_open.run(rotation.run(stop.clone())),
        );

        let snapshots = SnapshotSlots::new(settings.snapshot_slots);

        let api = web::Data::new(Api {
            store,
            writer,
            policy,
            fleet,
            snapshots,
            shared_snapshots: SharedTexts::new(settings.limits.limit_snapshot_bytes),
            load_heads: LoadHeads::default(),
            lists: SnapshotSlots::new(settings.limits.limit_lists),
            histories: SnapshotSlots::new(settings.publisher_limits.limit_histories),
            feed,
            streams,
            dead_letters,
            sidecar_pubsub,
            metrics,
            repairs,
            rates,
            audit,
            tokens,
            authenticator: authenticator.clone(),
            readiness: Readiness::default(),
            drain: Drain::new(settings.drain),
        });
        Ok(Self {
            api,
            connections,
            layer: Layer {
                authenticator,
                sidecar_token,
            },
            http: None,
            no_more_requests,
            supervisor,
        })
    }

    /// 4. The port.
    fn listen(
        &mut self,
        listen: SocketAddr,
        guard: GuardSettings,
        limits: LimitSettings,
        tls: Option<ServerTls>,
    ) -> anyhow::Result<()> {
        if let Some(tls) = tls.clone() {
            let stop = self.supervisor.stop();
            let run = async move { Ok(tls.run(stop).await?) };
            self.supervisor.spawn("TLS files", run);
        }
        let api = self.api.clone();
        let bodies = web::Data::new(Bodies::new(limits.bodies(), &routes::table(), &[]));
        let rates = web::Data::new(api.rates.clone());
        let bad_credentials = web::Data::new(limits.bad_credentials());
        let refusals = web::Data::new(api.metrics.refusals.clone());
        let layer = self.layer.clone();
        let app = move || {
            App::new()
                .app_data(api.clone())
                .app_data(refusals.clone())
                .app_data(bodies.clone())
                .app_data(rates.clone())
                .app_data(bad_credentials.clone())
                .configure(|config| routes::configure(config, &guard, &layer))
        };
        let stop = self.supervisor.stop();
        let bound = server::listen(listen).and_then(|listener| {
            let address = listener.local_addr()?;
            let (connections, drain) = (self.connections.clone(), self.drain());
            let server = server::serve(listener, connections, tls, drain, stop, app)?;
            Ok((address, server))
        });
        let http = bound
            .with_context(|| format!("cannot listen on {listen} (AURA_CONFIGURATION_LISTEN)"))?;
        self.http = Some(http);
        Ok(())
    }

    /// The address of the HTTP API, if it has one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(address, _server)| *address)
    }

    /// Makes `/readyz` answer 503 and connections end, for the time in the settings: what
    /// [`Self::run`] is given as `shutdown` runs it before it resolves.
    pub fn drain(&self) -> Drain {
        self.api.drain.clone()
    }

    /// Publishes changes from this process; see [`crate::embed`].
    pub fn changes(&self) -> Changes {
        Changes::new(
            self.api.writer.clone(),
            self.api.policy.clone(),
            self.api.metrics.clone(),
        )
    }

    /// Serves until `shutdown` resolves, then ends in order.
    ///
    /// # Errors
    /// When a task failed or ended by itself, or did not end in time. `shutdown` is dropped then.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            api,
            connections: _,
            layer,
            http,
            no_more_requests,
            mut supervisor,
        } = self;
        // The tasks hold what they need. The rest is dropped here, so that the store closes when they
        // have ended.
        drop(api);
        let stop = supervisor.stop();
        match &http {
            Some((address, _server)) => {
                if layer.authenticator.is_open() {
                    warn_when_open("publisher", *address, PEERS);
                }
                info!(%address, "the publisher is up");
            }
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

/// Starts tasks when the store is open.
struct WhenOpen {
    store: Store,
    stop: CancellationToken,
}

impl WhenOpen {
    fn run<T: Future<Output = anyhow::Result<()>>>(
        &self,
        task: T,
    ) -> impl Future<Output = anyhow::Result<()>> + use<T> {
        let (store, stop) = (self.store.clone(), self.stop.clone());
        async move {
            match stop.run_until_cancelled(store.when_open()).await {
                Some(()) => task.await,
                None => Ok(()),
            }
        }
    }
}

/// Warns of what a wrong folder of schemas does to the collections that the store has.
async fn warn_of_collections(store: &Store) {
    match store.written_collections().await {
        Ok(written) => {
            for line in store.policy().warnings(&written) {
                warn!("{line}");
            }
        }
        Err(error) => {
            warn!(
                "it is not known whether the store has collections that are not served or have no \
                 schema: {error:#}"
            );
        }
    }
}

fn policy(settings: &Settings) -> PublisherPolicy {
    if !settings.schemas_dir.exists() {
        warn!(
            folder = %settings.schemas_dir.display(),
            "there is no folder of schemas (AURA_CONFIGURATION_SCHEMAS_DIR): documents of every \
             collection are taken unchecked"
        );
    }
    let schemas = settings.schemas.clone();
    let names: Vec<_> = schemas.keys().map(CollectionName::as_str).collect();
    info!(
        folder = %settings.schemas_dir.display(),
        collections = names.join(","),
        "these collections have schemas; every other one takes any object"
    );
    // A collection that has a schema file is served as well.
    let mut collections = settings.collections.clone();
    collections.extend(schemas.keys().cloned());
    let collections = if settings.collections_grow {
        ServedCollections::growing(collections)
    } else {
        ServedCollections::fixed(collections)
    };
    let rules = Rules {
        schemas: Schemas::new(schemas),
        document_limit: settings.document_limit,
        secrets: settings
            .secret_keys
            .clone()
            .map(Sealing::with_keys)
            .unwrap_or_default(),
    };
    PublisherPolicy {
        collections,
        rules,
        broadcast: settings
            .events
            .as_ref()
            .map(|events| events.broadcast.clone())
            .unwrap_or_default(),
    }
}

/// The component with which the sidecar reads dead letters, and the token that it sends.
fn sidecar(events: &Events) -> (Option<String>, SidecarToken) {
    let (component, token) = match &events.transport {
        TransportSettings::Dapr {
            dead_letters,
            app_token,
            ..
        } => (Some(dead_letters.clone()), app_token.as_ref()),
        TransportSettings::Local { api_token, .. } => {
            (None, api_token.as_ref().map(|token| &token.text))
        }
        TransportSettings::Redis { .. } => (None, None),
    };
    let token = token.map(|token| SidecarToken::Asked(token.as_str().into()));
    (component, token.unwrap_or_default())
}

fn transport(
    events: Events,
    policy: Arc<PublisherPolicy>,
    max_found: usize,
    authenticator: &Arc<Authenticator>,
    confirmations: Confirmations,
) -> anyhow::Result<Transport> {
    info!(transport = ?events.transport, "events are enabled");
    let encoder = EventEncoder {
        pub_sub_name: events.pub_sub_name,
        ttl_seconds: events.ttl_seconds,
        data_limit: events.data_limit,
        policy,
        signer: events.signer,
        confirmations,
    };
    let transport = match events.transport {
        TransportSettings::Dapr {
            endpoint,
            api_token,
            ..
        } => {
            let dapr = DaprTransport::new(endpoint, api_token.as_deref(), encoder)?;
            Transport::Dapr(Box::new(dapr))
        }
        TransportSettings::Local {
            subscribers,
            allowed,
            api_token,
            tls,
        } => {
            let authenticator = Arc::clone(authenticator);
            let subscribers =
                SubscriberRegistry::new(subscribers, allowed, api_token, authenticator)
                    .at_most(max_found);
            Transport::Direct(DirectTransport::new(subscribers, encoder, tls)?)
        }
        TransportSettings::Redis {
            redis,
            keep,
            by_document,
        } => Transport::Redis(Box::new(RedisTransport::new(
            *redis,
            keep,
            by_document,
            encoder,
        ))),
    };
    Ok(transport)
}

#[cfg(test)]
mod tests;
