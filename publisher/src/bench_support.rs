//! What the benchmarks need besides the public interface: the exact bytes of events, to send the same
//! bytes without a publisher, the limit of the relay, and the proofs of changes.
//!
//! Nothing of the product uses this module.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    decide::{Rules, schemas::Schemas},
    settings::Events,
    store::{PublisherPolicy, ServedCollections},
};
pub use crate::{
    outbox::relay::QUEUE as RELAY_QUEUE, store::StoreSecret, transport::cloudevent::EventEncoder,
};

/// Makes the events that a publisher with these settings and without schemas sends.
pub fn envelopes(events: &Events) -> EventEncoder {
    EventEncoder {
        pub_sub_name: events.pub_sub_name.clone(),
        ttl_seconds: events.ttl_seconds,
        data_limit: events.data_limit,
        policy: Arc::new(PublisherPolicy {
            collections: ServedCollections::fixed(BTreeSet::new()),
            rules: Rules {
                schemas: Schemas::default(),
                document_limit: 1 << 20,
            },
            broadcast: crate::policy::Broadcast::all(),
        }),
    }
}
