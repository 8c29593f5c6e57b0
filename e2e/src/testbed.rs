//! Real programs for tests: MongoDB, Redis, Dapr sidecars and the services of this repository, each
//! on free ports in a folder of its own, and killed when dropped. [`Testbed`] is the setup that most
//! tests begin with: a store, a publisher, two replicas, and what carries events between them.
//!
//! It starts, stops and observes programs. It never checks a promise: that is the tests' own work.

pub mod balancer;
pub mod brokers;
pub mod dependencies;
pub mod environment;
pub mod feed_reader;
pub mod files;
pub mod kafka;
pub mod metric_reference;
pub mod mongod;
pub mod nats;
pub mod placement;
pub mod ports;
pub mod process;
pub mod redis;
pub mod replica_set;
pub mod services;
pub mod sidecar;
pub mod wait;

use anyhow::{Context, ensure};
use contract::Head;
use serde_json::{Value, json};

use self::{
    brokers::Broker, mongod::Mongod, redis::Redis, services::Service, sidecar::Sidecar,
    wait::eventually,
};

/// A collection without a schema. It is not one of the six that have one.
pub const FREE: &str = "FreeForm";
/// All collections without a schema that the sidecars know.
pub const SCHEMA_FREE: [&str; 3] = [FREE, "FreeFormB", "FreeFormC"];
/// A collection with a schema.
pub const CHANNELS: &str = "ChannelConfiguration";

/// All collections of the tests, as the setting takes them.
pub const COLLECTIONS: &str = "FreeForm,ChannelConfiguration,ApplicationConfiguration,SkillConfiguration,\
    TvSectionsConfiguration,PresetConfiguration,AgentConfiguration";

/// The two stores of a publisher.
#[derive(Debug, Clone, Copy)]
pub enum StoreKind {
    /// The embedded store: a file of the publisher.
    Embedded,
    /// MongoDB.
    Mongo,
}

/// A store. Keep it for as long as its publishers run.
#[derive(Debug)]
pub struct Store(pub Option<Mongod>);

impl Store {
    /// Starts the server of the store, if it has one.
    ///
    /// # Errors
    /// When the server does not start in time.
    pub async fn start(kind: StoreKind) -> anyhow::Result<Self> {
        Ok(Self(match kind {
            StoreKind::Embedded => None,
            StoreKind::Mongo => Some(Mongod::start().await?),
        }))
    }

    /// A publisher on this store, not yet started.
    ///
    /// # Errors
    /// When no port is free.
    pub fn publisher(&self) -> anyhow::Result<Service> {
        let publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", COLLECTIONS);
        Ok(match &self.0 {
            Some(mongod) => publisher.with("AURA_CONFIGURATION_STORE_URL", mongod.url("confcast")),
            None => publisher,
        })
    }
}

/// The sample of a collection from `schemas/`, without the members that refer to other documents: it
/// can be stored alone.
///
/// # Errors
/// When the collection has no sample.
pub fn sample(collection: &str) -> anyhow::Result<Value> {
    let mut sample = whole_sample(collection)?;
    let schema = shipped(&format!("{collection}.schema.json"))?;
    if let Some(members) = sample.as_object_mut() {
        members.retain(|name, _value| schema["properties"][name]["x-ref"].is_null());
    }
    Ok(sample)
}

/// The sample of a collection from `schemas/`.
///
/// # Errors
/// When the collection has no sample.
pub fn whole_sample(collection: &str) -> anyhow::Result<Value> {
    shipped(&format!("{collection}.sample.json"))
}

fn shipped(file: &str) -> anyhow::Result<Value> {
    let path = dependencies::repository_root().join("schemas").join(file);
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// A document with one number.
pub fn numbered(number: u64) -> Value {
    json!({ "number": number })
}

/// How events travel from a publisher to its subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// From the publisher to the subscribers by HTTP.
    Local,
    /// Through Dapr sidecars, and Redis unless the caller names another broker.
    Dapr,
    /// Through Redis without sidecars, by Pub/Sub.
    PubSub,
    /// Through Redis without sidecars, by streams.
    Streams,
    /// Through the live feed of the publisher.
    Feed,
}

impl Transport {
    /// The settings of both services that select Redis as the transport; none for the other
    /// transports.
    pub fn redis_settings(self, url: &str) -> Vec<(&'static str, String)> {
        let delivery = match self {
            Self::Local | Self::Dapr | Self::Feed => return Vec::new(),
            Self::PubSub => "PUBSUB",
            Self::Streams => "STREAMS",
        };
        vec![
            ("AURA_CONFIGURATION_EVENTS_MANAGER", "REDIS".to_owned()),
            ("AURA_REDIS_URL", url.to_owned()),
            ("AURA_REDIS_DELIVERY", delivery.to_owned()),
        ]
    }
}

/// A publisher and two replicas of one subscriber, with the servers and sidecars that carry events
/// between them.
#[derive(Debug)]
pub struct Testbed {
    /// The transport of events.
    pub transport: Transport,
    /// The store of the publisher.
    pub store: Store,
    /// Redis, where the transport needs it.
    pub redis: Option<Redis>,
    /// The broker of the sidecars, where the caller named one.
    pub broker: Option<Broker>,
    /// The publisher.
    pub publisher: Service,
    /// The sidecar of the publisher.
    pub publisher_sidecar: Option<Sidecar>,
    /// The subscribers, one replica each.
    pub subscribers: Vec<Service>,
    /// The sidecars of the subscribers, in the same order.
    pub sidecars: Vec<Sidecar>,
}

/// Check-in interval in seconds, longer than any test. A change that arrives in a test therefore
/// arrived by an event.
const NEVER: &str = "3600";

impl Testbed {
    /// Reserves all ports and starts the servers. Services and sidecars are not started.
    ///
    /// # Errors
    /// When a server does not start in time.
    pub async fn prepare(kind: StoreKind, transport: Transport) -> anyhow::Result<Self> {
        let mut testbed = Self::without_transport(kind, transport).await?;
        match transport {
            Transport::Local => {
                let urls: Vec<_> = testbed.subscribers.iter().map(Service::url).collect();
                testbed.publisher = testbed
                    .publisher
                    .with("AURA_CONFIGURATION_LOCAL_SUBSCRIBERS", urls.join(","));
            }
            Transport::Dapr => {
                let redis = Redis::start().await?;
                testbed.add_sidecars(|app, port, name| Sidecar::new(app, port, name, &redis))?;
                testbed.redis = Some(redis);
            }
            Transport::Feed => {
                testbed
                    .subscribers
                    .iter_mut()
                    .for_each(|one| one.set("AURA_CONFIGURATION_EVENTS_MANAGER", "FEED"));
            }
            Transport::PubSub | Transport::Streams => {
                let redis = Redis::start().await?;
                testbed.use_redis(&redis.url());
                testbed.redis = Some(redis);
            }
        }
        Ok(testbed)
    }

    /// As [`Self::prepare`], with a Redis of the caller at a URL of any form.
    ///
    /// # Errors
    /// When a server does not start in time.
    pub async fn prepare_at(
        kind: StoreKind,
        transport: Transport,
        url: &str,
    ) -> anyhow::Result<Self> {
        let mut testbed = Self::without_transport(kind, transport).await?;
        testbed.use_redis(url);
        Ok(testbed)
    }

    /// Adds a setting to the publisher and the subscribers. It takes effect at their next start.
    pub fn set_all(&mut self, name: &str, value: &str) {
        self.publisher.set(name, value);
        self.subscribers
            .iter_mut()
            .for_each(|subscriber| subscriber.set(name, value));
    }

    fn use_redis(&mut self, url: &str) {
        for (name, value) in self.transport.redis_settings(url) {
            self.set_all(name, &value);
        }
    }

    /// Store, publisher and subscribers without a transport.
    async fn without_transport(kind: StoreKind, transport: Transport) -> anyhow::Result<Self> {
        let store = Store::start(kind).await?;
        let publisher = store.publisher()?;
        let subscriber = |name: &str| {
            let subscriber = Service::subscriber(name, &[publisher.url()])?;
            let subscriber = subscriber.with("AURA_CONFIGURATION_COLLECTIONS", COLLECTIONS);
            anyhow::Ok(subscriber.with("AURA_CONFIGURATION_CHECK_IN_SECONDS", NEVER))
        };
        let subscribers = vec![subscriber("replica-1")?, subscriber("replica-2")?];
        Ok(Self {
            transport,
            store,
            redis: None,
            broker: None,
            publisher,
            publisher_sidecar: None,
            subscribers,
            sidecars: Vec::new(),
        })
    }

    /// Gives each service a sidecar, which `new` makes of app id, port and name.
    fn add_sidecars(
        &mut self,
        new: impl Fn(&str, u16, &str) -> anyhow::Result<Sidecar>,
    ) -> anyhow::Result<()> {
        let sidecar = new(sidecar::PUBLISHER, self.publisher.port(), "publisher")?;
        let grpc = sidecar.grpc_port().to_string();
        self.set_all("AURA_CONFIGURATION_EVENTS_MANAGER", "DAPR");
        self.publisher.set("DAPR_GRPC_PORT", grpc);
        self.publisher_sidecar = Some(sidecar);
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            let name = format!("replica-{}", index + 1);
            self.sidecars
                .push(new(sidecar::SUBSCRIBER, subscriber.port(), &name)?);
        }
        Ok(())
    }

    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When a part is not ready in time.
    pub async fn start(kind: StoreKind, transport: Transport) -> anyhow::Result<Self> {
        let mut testbed = Self::prepare(kind, transport).await?;
        testbed.start_all().await?;
        Ok(testbed)
    }

    async fn start_all(&mut self) -> anyhow::Result<()> {
        self.publisher.start().await?;
        self.start_subscribers().await?;
        if let Some(sidecar) = &mut self.publisher_sidecar {
            sidecar.start().await?;
        }
        Ok(())
    }

    /// Starts the subscribers, then their sidecars.
    ///
    /// # Errors
    /// When one of them is not ready in time.
    pub async fn start_subscribers(&mut self) -> anyhow::Result<()> {
        for subscriber in &mut self.subscribers {
            subscriber.start().await?;
        }
        for sidecar in &mut self.sidecars {
            sidecar.start().await?;
            sidecar.until_subscribed().await?;
        }
        self.until_listening().await
    }

    /// Waits until every replica has subscribed, if the transport is Redis without sidecars. An
    /// earlier write would reach a replica by its first load and not by an event.
    async fn until_listening(&self) -> anyhow::Result<()> {
        let Some(redis) = self
            .redis
            .as_ref()
            .filter(|_| matches!(self.transport, Transport::PubSub | Transport::Streams))
        else {
            return Ok(());
        };
        eventually("the replicas listen", async || {
            let listen = redis.listeners().await?;
            let wanted = self.subscribers.len();
            ensure!(listen >= wanted, "{listen} of {wanted} listen");
            Ok(())
        })
        .await
        .with_context(|| {
            self.subscribers
                .iter()
                .map(Service::output)
                .collect::<String>()
        })
    }

    /// Waits until both replicas hold the document of the publisher byte for byte, or until both
    /// hold none, as the publisher.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn until_same(&self, collection: &str, id: &str) -> anyhow::Result<()> {
        let truth = self.publisher.api().document(collection, id).await?;
        for subscriber in &self.subscribers {
            let api = subscriber.api();
            eventually(&format!("{collection}/{id} arrives"), async || {
                let held = api.document(collection, id).await?;
                ensure!(
                    held.status == truth.status,
                    "{} instead of {}: {}",
                    held.status,
                    truth.status,
                    held.body
                );
                ensure!(
                    truth.status != 200 || held.body == truth.body,
                    "{} instead of {}",
                    held.body,
                    truth.body
                );
                Ok(())
            })
            .await
            .with_context(|| subscriber.output())?;
        }
        Ok(())
    }

    /// Waits until both replicas have the revision, count and digest of the publisher's collection.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn until_converged(&self, collection: &str) -> anyhow::Result<()> {
        for replica in 0..self.subscribers.len() {
            self.until_converged_at(replica, collection).await?;
        }
        Ok(())
    }

    /// As [`Self::until_converged`], for one replica.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn until_converged_at(&self, replica: usize, collection: &str) -> anyhow::Result<()> {
        let truth = self.publisher.api().head(collection).await?;
        let subscriber = self.subscribers.get(replica).context("no such replica")?;
        let api = subscriber.api();
        eventually(&format!("{collection} converges"), async || {
            let head = api.head(collection).await?;
            let place = |head: &Head| (head.epoch, head.revision, head.count, head.digest);
            ensure!(
                place(&head) == place(&truth),
                "{head:?} instead of {truth:?}"
            );
            Ok(())
        })
        .await
        .with_context(|| subscriber.output())
    }
}
