//! The calls of an embedded store.

use std::collections::BTreeSet;

use chrono::Utc;
use contract::CollectionName;

use super::*;
use crate::decide::{Action, Condition, Rules, Write, schemas::Schemas};

/// A publisher whose clock is an hour ahead commits a change and stops before it publishes it.
#[tokio::test]
async fn a_change_with_a_commit_time_in_the_future_is_pending() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let name: CollectionName = "A".parse().expect("a name");
    let rules = Rules {
        schemas: Schemas::default(),
        document_limit: 1_000,
    };
    let policy = PublisherPolicy {
        collections: BTreeSet::from([name.clone()]),
        rules,
        events_enabled: true,
    };
    let store = Store::open(&StoreUrl::Embedded(folder.path().into()), Arc::new(policy))
        .await
        .expect("a store");
    let write = Write {
        collection: name.clone(),
        id: "x".parse().expect("an id"),
        action: Action::Create(contract::CanonicalJson::parse(b"{}").expect("json")),
        condition: Condition::Any,
        context: contract::Context::default(),
    };
    store
        .commit(Arc::from([Command::Single(write)]))
        .await
        .expect("committed");
    let second = chrono::TimeDelta::seconds(1);
    for (now, found) in [
        (Utc::now(), 0),
        (Utc::now() - second * 3_600, 1),
        (Utc::now() + second * 3_600, 1),
    ] {
        let pending = store
            .pending(&name, 0, now - second * 60..now + second * 60, 9)
            .await
            .expect("a log");
        assert_eq!(pending.len(), found, "{now}");
    }
}
