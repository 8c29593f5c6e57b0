//! The processes of a campaign: a database, a broker, publishers, replicas and their sidecars, and
//! the links between them.
//!
//! Every link that can fail alone is a [`Proxy`]. This module starts and repairs; the schedule
//! decides which fault hits which process.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use futures_util::future::try_join_all;

use super::{
    component::{Component, Program},
    followers::Follower,
    proxy::{Mode, Proxy},
};
use crate::{
    client::Api,
    testbed::{
        SCHEMA_FREE, Transport,
        files::Files,
        mongod::Mongod,
        ports::free_port,
        redis::Redis,
        services::Service,
        sidecar::{self, Sidecar},
    },
};

/// Name of the database.
pub const DATABASE: &str = "confcast";
/// Longest time between two check-ins of a replica.
pub const CHECK_IN: Duration = Duration::from_secs(2);
/// Changes that the log of a collection keeps at least.
pub const KEPT_CHANGES: u64 = 200;
/// How often to check whether a process ended by itself.
const WATCH: Duration = Duration::from_millis(300);

/// A service and its address.
#[derive(Debug)]
pub struct ServiceEndpoint {
    /// Index of its component.
    pub component: usize,
    /// Its base URL, without a proxy.
    pub url: String,
    /// The folder of its last known good values.
    pub snapshots: PathBuf,
}

/// Services of one kind with their names.
fn named<'a>(
    kind: &str,
    services: &'a mut [Service],
) -> impl Iterator<Item = (String, &'a mut Service)> {
    services
        .iter_mut()
        .enumerate()
        .map(move |(place, service)| (format!("{kind}-{}", place + 1), service))
}

/// A replica that checks in often, and finds its values and positions on disk.
fn with_replica(service: Service) -> Service {
    let snapshots = service.folder().join("snapshots").display().to_string();
    service
        .with("AURA_CONFIGURATION_SNAPSHOT_DIR", snapshots)
        .with(
            "AURA_CONFIGURATION_CHECK_IN_SECONDS",
            CHECK_IN.as_secs().to_string(),
        )
}

/// All processes and links of a campaign.
#[derive(Debug)]
pub struct Cluster {
    /// The processes. A process comes before those that need it at their start.
    pub components: Vec<Component>,
    /// The links.
    pub links: Vec<Proxy>,
    /// The publishers.
    pub publishers: Vec<ServiceEndpoint>,
    /// The replicas.
    pub replicas: Vec<ServiceEndpoint>,
    /// Readers by other ways than the HTTP API of a subscriber.
    pub followers: Vec<Follower>,
}

impl Cluster {
    /// Starts everything and waits until it is ready: two publishers on MongoDB and three replicas,
    /// or, with the local transport, one publisher with an embedded store and three replicas; besides, a
    /// Dapr component and `confcast files`.
    ///
    /// # Errors
    /// When a process is not ready in time.
    pub async fn start(transport: Transport) -> anyhow::Result<Self> {
        let mut cluster = Self {
            components: Vec::new(),
            links: Vec::new(),
            publishers: Vec::new(),
            replicas: Vec::new(),
            followers: Vec::new(),
        };
        let mut servers = None;
        if transport != Transport::Local {
            let mongod = Mongod::start().await?;
            let redis = if transport == Transport::Feed {
                None
            } else {
                Some(Redis::start().await?)
            };
            servers = Some((mongod.port(), redis.as_ref().map_or(0, Redis::port)));
            cluster.component("mongod", Program::Mongod(mongod));
            if let Some(redis) = redis {
                cluster.component("redis", Program::Redis(redis));
            }
        }
        let common = |service: Service| {
            service.with("AURA_CONFIGURATION_COLLECTIONS", SCHEMA_FREE.join(","))
        };
        // A change log so short that a replica that was disconnected for long finds it trimmed.
        let short = |service: Service| {
            let kept = service.with(
                "AURA_CONFIGURATION_LOG_KEEP_CHANGES",
                KEPT_CHANGES.to_string(),
            );
            kept.with("AURA_CONFIGURATION_LOG_KEEP_HOURS", "0")
                .with("AURA_CONFIGURATION_LOG_TRIM_SECONDS", "3")
        };
        let mut publishers = (0..if servers.is_some() { 2 } else { 1 })
            .map(|_| Service::publisher().map(common).map(short))
            .collect::<Result<Vec<_>, _>>()?;
        let mut replicas = Vec::new();
        for number in 1..=3_u8 {
            let name = format!("replica-{number}");
            let urls = cluster.links_to(&publishers, &name).await?;
            let replica = common(with_replica(Service::subscriber(&name, &urls)?));
            let port = free_port()?;
            let collection = (number - 1) % SCHEMA_FREE.len() as u8;
            cluster.followers.push(Follower::configuration(
                format!("configuration of {name}"),
                port,
                collection,
            ));
            let address = format!("127.0.0.1:{port}");
            replicas.push(replica.with("AURA_CONFIGURATION_DAPR_API_LISTEN", address));
        }
        let urls = cluster.links_to(&publishers, "component").await?;
        let component = common(with_replica(Service::component("component", &urls)?));
        let files = Files::of(&cluster.links_to(&publishers, "files").await?)?;
        let mut sidecars = Vec::new();
        if let Some((mongod, redis)) = servers {
            for (name, publisher) in named("publisher", &mut publishers) {
                let port = cluster.link(format!("{name}→mongod"), mongod).await?;
                // The host name in the replica set would bypass the link.
                let url = format!("mongodb://127.0.0.1:{port}/{DATABASE}?directConnection=true");
                publisher.set("AURA_CONFIGURATION_STORE_URL", url);
            }
            let services =
                named("publisher", &mut publishers).map(|service| (sidecar::PUBLISHER, service));
            let services = services.chain(
                named("replica", &mut replicas).map(|service| (sidecar::SUBSCRIBER, service)),
            );
            for (app, (name, service)) in services {
                if transport == Transport::Dapr {
                    let sidecar = cluster.sidecar(app, service.port(), &name, redis).await?;
                    service.set("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR");
                    if app == sidecar::PUBLISHER {
                        service.set("DAPR_GRPC_PORT", sidecar.grpc_port().to_string());
                    }
                    sidecars.push((name, sidecar));
                } else if transport == Transport::Feed {
                    // With this transport the publishers send no events.
                    let manager = if app == sidecar::SUBSCRIBER {
                        "FEED"
                    } else {
                        "LOCAL"
                    };
                    service.set("AURA_CONFIGURATION_EVENTS_MANAGER", manager);
                } else {
                    let url = format!(
                        "redis://127.0.0.1:{}",
                        cluster.link(format!("{name}→redis"), redis).await?
                    );
                    for (setting, value) in transport.redis_settings(&url) {
                        service.set(setting, value);
                    }
                    if app == sidecar::PUBLISHER {
                        // A stream so short that a replica that was disconnected for long finds it
                        // trimmed.
                        service.set("AURA_REDIS_STREAM_MAX_LENGTH", "20");
                        service.set("AURA_REDIS_DOCUMENT_CHANNELS", SCHEMA_FREE[1]);
                    }
                }
            }
        } else {
            let mut urls = Vec::new();
            for (place, replica) in replicas.iter().enumerate() {
                let name = format!("publisher-1→replica-{}", place + 1);
                urls.push(format!(
                    "http://127.0.0.1:{}",
                    cluster.link(name, replica.port()).await?
                ));
            }
            publishers[0].set("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", urls.join(","));
        }
        for (place, publisher) in publishers.into_iter().enumerate() {
            let member = cluster.service(format!("publisher-{}", place + 1), publisher);
            cluster.publishers.push(member);
        }
        for (place, replica) in replicas.into_iter().enumerate() {
            let member = cluster.service(format!("replica-{}", place + 1), replica);
            cluster.replicas.push(member);
        }
        cluster.followed(component, files);
        for (name, sidecar) in sidecars {
            cluster.component(format!("daprd-{name}"), Program::Sidecar(sidecar));
        }
        for component in &cluster.components {
            component.run().await?;
            component.until_ready().await?;
        }
        Ok(cluster)
    }

    /// Adds the programs that are no subscribers, and their followers.
    fn followed(&mut self, component: Service, files: Files) {
        let socket = component.socket();
        let process = self.component("component", Program::Component(component));
        // Two of one topic, of which one comes and goes.
        let topics = (0..).zip(SCHEMA_FREE).map(|topic| (topic, false));
        for ((collection, name), leaves) in topics.chain([((0, SCHEMA_FREE[0]), true)]) {
            let name = format!(
                "topic {name}{}",
                if leaves { " of one that leaves" } else { "" }
            );
            let socket = socket.clone();
            self.followers.push(Follower::component(
                name, socket, collection, process, leaves,
            ));
        }
        let (out, status) = (files.out(), files.status());
        self.followers
            .push(Follower::files("folder".to_owned(), out, status));
        self.component("files", Program::Files(files));
    }

    fn component(&mut self, name: impl Into<String>, program: Program) -> usize {
        self.components.push(Component::new(name, program));
        self.components.len() - 1
    }

    fn service(&mut self, name: String, service: Service) -> ServiceEndpoint {
        let url = service.url();
        let snapshots = service.folder().join("snapshots");
        ServiceEndpoint {
            component: self.component(name, Program::Service(service)),
            url,
            snapshots,
        }
    }

    /// Base URLs of links from a reader to each publisher.
    async fn links_to(
        &mut self,
        publishers: &[Service],
        from: &str,
    ) -> anyhow::Result<Vec<String>> {
        let mut urls = Vec::new();
        for (place, publisher) in publishers.iter().enumerate() {
            let name = format!("{from}→publisher-{}", place + 1);
            let port = self.link(name, publisher.port()).await?;
            urls.push(format!("http://127.0.0.1:{port}"));
        }
        Ok(urls)
    }

    async fn link(&mut self, name: String, upstream: u16) -> anyhow::Result<u16> {
        let proxy = Proxy::start(name, upstream).await?;
        let port = proxy.port();
        self.links.push(proxy);
        Ok(port)
    }

    async fn sidecar(
        &mut self,
        app: &str,
        port: u16,
        name: &str,
        redis: u16,
    ) -> anyhow::Result<Sidecar> {
        let redis = self.link(format!("daprd-{name}→redis"), redis).await?;
        Sidecar::with_redis_at(&format!("127.0.0.1:{redis}"), app, port, name)
    }

    /// The component with a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> anyhow::Result<&Component> {
        self.components
            .iter()
            .find(|component| component.name == name)
            .with_context(|| format!("there is no component {name}"))
    }

    /// Opens every link, starts every process, and waits until database, broker and sidecars are
    /// ready. The time for convergence begins here.
    ///
    /// # Errors
    /// When a process is not ready in time.
    pub async fn mend(&self) -> anyhow::Result<()> {
        for link in &self.links {
            link.set(Mode::Open);
        }
        let ours = |component: &&Component| {
            let names = ["publisher", "replica", "component", "files"];
            names.iter().any(|name| component.name.starts_with(name))
        };
        for component in &self.components {
            component.run().await?;
        }
        try_join_all(
            self.components
                .iter()
                .filter(|component| !ours(component))
                .map(Component::until_ready),
        )
        .await
        .map(drop)
    }

    /// Restarts processes that end by themselves (a sidecar without its broker does), as an
    /// orchestrator would. `ended` receives the name and the last line of the output.
    pub async fn keep(&self, ended: impl Fn(&str, &str)) -> anyhow::Error {
        loop {
            for component in &self.components {
                let Ok(mut program) = component.program.try_lock() else {
                    continue;
                };
                if !program.runs() {
                    let said = program
                        .process()
                        .map(|process| process.run_output())
                        .unwrap_or_default();
                    ended(&component.name, said.lines().last().unwrap_or_default());
                    if let Err(error) = component.launch(&mut program) {
                        return error;
                    }
                }
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// A client of a publisher; the index wraps around.
    pub fn publisher(&self, place: usize) -> Api {
        Api::new(self.publishers[place % self.publishers.len()].url.clone())
    }
}
