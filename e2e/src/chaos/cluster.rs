//! Who plays: a database, a broker, publishers, replicas and their sidecars, and the links between
//! them.
//!
//! Every link that can fail alone leads through a [`Proxy`]. It sets up and mends; what is done to
//! whom is the schedule's.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use futures_util::future::try_join_all;

use super::{
    component::{Component, Program},
    proxy::{Mode, Proxy},
};
use crate::{
    client::Api,
    testbed::{
        SCHEMA_FREE, Transport,
        mongod::Mongod,
        redis::Redis,
        services::Service,
        sidecar::{self, Sidecar},
    },
};

/// Name of the database.
pub const DATABASE: &str = "confcast";
/// Longest time between two check-ins of a replica.
pub const CHECK_IN: Duration = Duration::from_secs(2);
/// How often it is looked whether something ended by itself.
const WATCH: Duration = Duration::from_millis(300);

/// A service and where it answers.
#[derive(Debug)]
pub struct ServiceEndpoint {
    /// Place of its part.
    pub component: usize,
    /// Straight to it, through no proxy.
    pub url: String,
    /// Where it keeps its last known good values.
    pub snapshots: PathBuf,
}

/// Services of one kind and their names.
fn named<'a>(
    kind: &str,
    services: &'a mut [Service],
) -> impl Iterator<Item = (String, &'a mut Service)> {
    services
        .iter_mut()
        .enumerate()
        .map(move |(place, service)| (format!("{kind}-{}", place + 1), service))
}

/// Everything that runs.
#[derive(Debug)]
pub struct Cluster {
    /// The processes; what others need at their start comes first.
    pub components: Vec<Component>,
    /// The links.
    pub links: Vec<Proxy>,
    /// The publishers.
    pub publishers: Vec<ServiceEndpoint>,
    /// The replicas.
    pub replicas: Vec<ServiceEndpoint>,
}

impl Cluster {
    /// Everything up and ready: two publishers on MongoDB and three replicas, with sidecars,
    /// straight at Redis or following the feed, or one publisher on a file that posts to three
    /// replicas itself.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn start(transport: Transport) -> anyhow::Result<Self> {
        let mut cluster = Self {
            components: Vec::new(),
            links: Vec::new(),
            publishers: Vec::new(),
            replicas: Vec::new(),
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
        // A log so short that who was away for long meets its end.
        let short = |service: Service| {
            let kept = service.with("AURA_CONFIGURATION_LOG_KEEP_CHANGES", "200");
            kept.with("AURA_CONFIGURATION_LOG_KEEP_HOURS", "0")
                .with("AURA_CONFIGURATION_LOG_TRIM_SECONDS", "3")
        };
        let mut publishers = (0..if servers.is_some() { 2 } else { 1 })
            .map(|_| Service::publisher().map(common).map(short))
            .collect::<Result<Vec<_>, _>>()?;
        let mut replicas = Vec::new();
        for number in 1..=3 {
            let mut urls = Vec::new();
            for (place, publisher) in publishers.iter().enumerate() {
                let name = format!("replica-{number}→publisher-{}", place + 1);
                urls.push(format!(
                    "http://127.0.0.1:{}",
                    cluster.link(name, publisher.port()).await?
                ));
            }
            let replica = common(Service::subscriber(&format!("replica-{number}"), &urls)?);
            let snapshots = replica.folder().join("snapshots").display().to_string();
            let replica = replica.with("AURA_CONFIGURATION_SNAPSHOT_DIR", snapshots);
            replicas.push(replica.with(
                "AURA_CONFIGURATION_CHECK_IN_SECONDS",
                CHECK_IN.as_secs().to_string(),
            ));
        }
        let mut sidecars = Vec::new();
        if let Some((mongod, redis)) = servers {
            for (name, publisher) in named("publisher", &mut publishers) {
                let port = cluster.link(format!("{name}→mongod"), mongod).await?;
                // The member's own name would lead around the link.
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
                    // The publishers send nothing by themselves: nobody asks them to.
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
                        // A stream so short that who was away for long meets its end as well.
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
        for (name, sidecar) in sidecars {
            cluster.component(format!("daprd-{name}"), Program::Sidecar(sidecar));
        }
        for component in &cluster.components {
            component.run().await?;
            component.until_ready().await?;
        }
        Ok(cluster)
    }

    fn component(&mut self, name: impl Into<String>, program: Program) -> usize {
        self.components.push(Component::new(name, program));
        self.components.len() - 1
    }

    fn service(&mut self, name: String, service: Service) -> ServiceEndpoint {
        let (url, snapshots) = (service.url(), service.folder().join("snapshots"));
        ServiceEndpoint {
            component: self.component(name, Program::Service(service)),
            url,
            snapshots,
        }
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

    /// The part of a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> anyhow::Result<&Component> {
        self.components
            .iter()
            .find(|component| component.name == name)
            .with_context(|| format!("nobody is called {name}"))
    }

    /// Every link is open, every part runs, and those that are not ours do their work: from here on
    /// replicas have their time to converge.
    ///
    /// # Errors
    /// When one does not in time.
    pub async fn mend(&self) -> anyhow::Result<()> {
        for link in &self.links {
            link.set(Mode::Open);
        }
        let ours = |component: &&Component| {
            component.name.starts_with("publisher") || component.name.starts_with("replica")
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

    /// Starts whatever ended by itself (a sidecar without its broker does), as anything that runs
    /// services would. `ended` is told its name and the last that it said.
    pub async fn keep(&self, ended: impl Fn(&str, &str)) -> anyhow::Error {
        loop {
            for component in &self.components {
                let Ok(mut program) = component.program.try_lock() else {
                    continue;
                };
                if !program.runs() {
                    let said = program
                        .process()
                        .map(|process| process.said())
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

    /// A client of a publisher.
    pub fn publisher(&self, place: usize) -> Api {
        Api::new(self.publishers[place % self.publishers.len()].url.clone())
    }
}
