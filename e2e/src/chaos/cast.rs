//! Who plays: a database, a broker, publishers, replicas and their sidecars, and the links between
//! them.
//!
//! Every link that can fail alone leads through a [`Proxy`]. It sets up and mends; what is done to
//! whom is the schedule's.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use futures_util::future::try_join_all;

use super::{
    part::{Part, Program},
    proxy::{Mode, Proxy},
};
use crate::{
    client::Api,
    mongod::Mongod,
    redis::Redis,
    services::Service,
    sidecar::{self, Sidecar},
    stage::{SCHEMA_FREE, Via},
};

/// Name of the database.
pub const DATABASE: &str = "confcast";
/// Longest time between two check-ins of a replica.
pub const CHECK_IN: Duration = Duration::from_secs(2);
/// How often it is looked whether something ended by itself.
const WATCH: Duration = Duration::from_millis(300);

/// A service and where it answers.
#[derive(Debug)]
pub struct Member {
    /// Place of its part.
    pub part: usize,
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
pub struct Cast {
    /// The processes; what others need at their start comes first.
    pub parts: Vec<Part>,
    /// The links.
    pub links: Vec<Proxy>,
    /// The publishers.
    pub publishers: Vec<Member>,
    /// The replicas.
    pub replicas: Vec<Member>,
}

impl Cast {
    /// Everything up and ready: two publishers on MongoDB and three replicas, with sidecars,
    /// straight at Redis or following the feed, or one publisher on a file that posts to three
    /// replicas itself.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn start(via: Via) -> anyhow::Result<Self> {
        let mut cast = Self {
            parts: Vec::new(),
            links: Vec::new(),
            publishers: Vec::new(),
            replicas: Vec::new(),
        };
        let mut servers = None;
        if via != Via::Local {
            let mongod = Mongod::start().await?;
            let redis = if via == Via::Feed {
                None
            } else {
                Some(Redis::start().await?)
            };
            servers = Some((mongod.port(), redis.as_ref().map_or(0, Redis::port)));
            cast.part("mongod", Program::Mongod(mongod));
            if let Some(redis) = redis {
                cast.part("redis", Program::Redis(redis));
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
                    cast.link(name, publisher.port()).await?
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
                let port = cast.link(format!("{name}→mongod"), mongod).await?;
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
                if via == Via::Dapr {
                    let sidecar = cast.sidecar(app, service.port(), &name, redis).await?;
                    service.set("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR");
                    if app == sidecar::PUBLISHER {
                        service.set("DAPR_GRPC_PORT", sidecar.grpc_port().to_string());
                    }
                    sidecars.push((name, sidecar));
                } else if via == Via::Feed {
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
                        cast.link(format!("{name}→redis"), redis).await?
                    );
                    for (setting, value) in via.redis_settings(&url) {
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
                    cast.link(name, replica.port()).await?
                ));
            }
            publishers[0].set("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", urls.join(","));
        }
        for (place, publisher) in publishers.into_iter().enumerate() {
            let member = cast.service(format!("publisher-{}", place + 1), publisher);
            cast.publishers.push(member);
        }
        for (place, replica) in replicas.into_iter().enumerate() {
            let member = cast.service(format!("replica-{}", place + 1), replica);
            cast.replicas.push(member);
        }
        for (name, sidecar) in sidecars {
            cast.part(format!("daprd-{name}"), Program::Sidecar(sidecar));
        }
        for part in &cast.parts {
            part.run().await?;
            part.until_ready().await?;
        }
        Ok(cast)
    }

    fn part(&mut self, name: impl Into<String>, program: Program) -> usize {
        self.parts.push(Part::new(name, program));
        self.parts.len() - 1
    }

    fn service(&mut self, name: String, service: Service) -> Member {
        let (url, snapshots) = (service.url(), service.folder().join("snapshots"));
        Member {
            part: self.part(name, Program::Service(service)),
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
    pub fn find(&self, name: &str) -> anyhow::Result<&Part> {
        self.parts
            .iter()
            .find(|part| part.name == name)
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
        let ours =
            |part: &&Part| part.name.starts_with("publisher") || part.name.starts_with("replica");
        for part in &self.parts {
            part.run().await?;
        }
        try_join_all(
            self.parts
                .iter()
                .filter(|part| !ours(part))
                .map(Part::until_ready),
        )
        .await
        .map(drop)
    }

    /// Starts whatever ended by itself (a sidecar without its broker does), as anything that runs
    /// services would. `ended` is told its name and the last that it said.
    pub async fn keep(&self, ended: impl Fn(&str, &str)) -> anyhow::Error {
        loop {
            for part in &self.parts {
                let Ok(mut program) = part.program.try_lock() else {
                    continue;
                };
                if !program.runs() {
                    let said = program
                        .process()
                        .map(|process| process.said())
                        .unwrap_or_default();
                    ended(&part.name, said.lines().last().unwrap_or_default());
                    if let Err(error) = part.launch(&mut program) {
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
