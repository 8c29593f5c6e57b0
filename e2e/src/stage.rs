//! What most tests begin with: a store, a publisher, samples.

use e2e::{mongod::Mongod, parts, services::Service};
use serde_json::{Value, json};

/// A collection without a schema, beside the six.
pub(crate) const FREE: &str = "FreeForm";
/// A collection with a schema.
pub(crate) const CHANNELS: &str = "ChannelConfiguration";

pub(crate) const COLLECTIONS: &str = "FreeForm,ChannelConfiguration,ApplicationConfiguration,SkillConfiguration,\
    TvSectionsConfiguration,PresetConfiguration,AgentConfiguration";

/// The two stores.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Embedded,
    Mongo,
}

/// A store, held for as long as its publishers need it.
#[derive(Debug)]
pub(crate) struct Store(pub(crate) Option<Mongod>);

impl Store {
    pub(crate) async fn start(kind: Kind) -> anyhow::Result<Self> {
        Ok(Self(match kind {
            Kind::Embedded => None,
            Kind::Mongo => Some(Mongod::start().await?),
        }))
    }

    /// A publisher on this store, not yet started.
    pub(crate) fn publisher(&self) -> anyhow::Result<Service> {
        let publisher = Service::publisher()?.with("AURA_CONFIGURATION_COLLECTIONS", COLLECTIONS);
        Ok(match &self.0 {
            Some(mongod) => publisher.with("AURA_CONFIGURATION_STORE_URL", mongod.url("confcast")),
            None => publisher,
        })
    }
}

/// The sample of a collection, as it ships.
pub(crate) fn sample(collection: &str) -> anyhow::Result<Value> {
    let path = parts::root().join(format!("schemas/{collection}.sample.json"));
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// A document that is nothing but a number.
pub(crate) fn numbered(number: u64) -> Value {
    json!({ "number": number })
}
