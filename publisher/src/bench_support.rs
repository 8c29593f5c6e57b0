//! What the benchmarks need besides the public interface: the exact bytes of events, to send the same
//! bytes without a publisher, the proofs of changes, and the calls of a store.
//!
//! Nothing of the product uses this module.

use std::{collections::BTreeSet, sync::Arc};

use contract::{CollectionName, Context, DocumentId, Expected};

pub use crate::{
    decide::Action,
    store::{
        Store, StoreSecret,
        past::history::{HistoryPage, HistoryQuery},
    },
    transport::cloudevent::EventEncoder,
};
use crate::{
    decide::{Command, Rules, Write, schemas::Schemas},
    policy::Broadcast,
    settings::Events,
    store::{PublisherPolicy, ServedCollections, StoreUrl},
};

/// Opens a store with one collection, without schemas and without events.
///
/// # Errors
/// When it cannot be opened.
pub async fn open(url: &StoreUrl, collection: &CollectionName) -> anyhow::Result<Store> {
    let policy = PublisherPolicy {
        collections: ServedCollections::fixed(BTreeSet::from([collection.clone()])),
        rules: Rules {
            schemas: Schemas::default(),
            document_limit: 1 << 20,
            secrets: Default::default(),
        },
        broadcast: Broadcast::Off,
    };
    Store::open(url, Arc::new(policy)).await
}

/// Commits one group.
///
/// # Errors
/// When one of its writes is not committed.
pub async fn write(
    store: &Store,
    collection: &CollectionName,
    actions: Vec<(DocumentId, Action)>,
) -> anyhow::Result<()> {
    let commands = actions.into_iter().map(|(id, action)| {
        let key = (collection.clone(), id);
        Command::Single(Write::new(key, action, Expected::Any, Context::default()))
    });
    for result in store.commit(commands.collect()).await?.results {
        result?;
    }
    Ok(())
}

/// Makes the events that a publisher with these settings and without schemas sends.
pub fn envelopes(events: &Events) -> EventEncoder {
    EventEncoder {
        confirmations: Default::default(),
        signer: events.signer.clone(),
        pub_sub_name: events.pub_sub_name.clone(),
        ttl_seconds: events.ttl_seconds,
        data_limit: events.data_limit,
        policy: Arc::new(PublisherPolicy {
            collections: ServedCollections::fixed(BTreeSet::new()),
            rules: Rules {
                schemas: Schemas::default(),
                document_limit: 1 << 20,
                secrets: Default::default(),
            },
            broadcast: crate::policy::Broadcast::all(),
        }),
    }
}
