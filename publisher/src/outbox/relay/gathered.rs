//! Changes that wait for a call of the transport, by collection.
//!
//! A change waits only while its collection has as many calls as it may have; then the next call
//! carries all that wait, within the limits of a call. So a single change goes at once, and a backlog
//! goes in few calls. Nothing is sent here.

use std::collections::{BTreeMap, VecDeque};

use contract::{Change, CollectionName};
use tracing::Span;

use crate::transport::CallLimits;

/// Bytes of an event besides its value, approximately: the envelope, and the metadata of its entry.
const ENVELOPE_BYTES: usize = 2_048;

/// A change that is in flight.
pub(super) struct TakenChange {
    pub(super) change: Change,
    /// The span of the write.
    pub(super) span: Span,
    /// Whether it comes from the sweep.
    pub(super) swept: bool,
}

/// See the module. The relay bounds their number.
pub(super) struct Gathered {
    limits: CallLimits,
    collections: BTreeMap<CollectionName, Collection>,
}

/// A collection with changes that wait, or with calls.
#[derive(Default)]
struct Collection {
    waiting: VecDeque<TakenChange>,
    calls: usize,
}

impl Gathered {
    pub(super) fn new(limits: CallLimits) -> Self {
        Self {
            limits,
            collections: BTreeMap::new(),
        }
    }

    /// Adds a change. It waits behind those of its collection.
    pub(super) fn add(&mut self, taken: TakenChange) {
        let name = &taken.change.collection;
        if !self.collections.contains_key(name) {
            self.collections.insert(name.clone(), Collection::default());
        }
        if let Some(collection) = self.collections.get_mut(name) {
            collection.waiting.push_back(taken);
        }
    }

    /// The changes of a call that begins now, at least one, all of one collection. `None` when
    /// nothing waits that may go.
    pub(super) fn next_call(&mut self) -> Option<(CollectionName, Vec<TakenChange>)> {
        let calls = self.limits.calls;
        let (name, collection) = self
            .collections
            .iter_mut()
            .find(|(_name, held)| held.calls < calls && !held.waiting.is_empty())?;
        collection.calls += 1;
        let mut changes = Vec::new();
        let mut bytes = 0;
        while let Some(next) = collection.waiting.front() {
            bytes += size(&next.change);
            // The first one is taken whatever its size, because it would never fit otherwise.
            let full = changes.len() == self.limits.events || bytes > self.limits.bytes;
            if full && !changes.is_empty() {
                break;
            }
            changes.extend(collection.waiting.pop_front());
        }
        Some((name.clone(), changes))
    }

    /// Notes that a call of the collection has ended.
    pub(super) fn call_ended(&mut self, name: &CollectionName) {
        if let Some(collection) = self.collections.get_mut(name) {
            collection.calls = collection.calls.saturating_sub(1);
            if collection.calls == 0 && collection.waiting.is_empty() {
                self.collections.remove(name);
            }
        }
    }

    /// Takes all changes that wait.
    pub(super) fn take_all(&mut self) -> Vec<TakenChange> {
        let held = self.collections.values_mut();
        held.flat_map(|held| held.waiting.drain(..)).collect()
    }
}

/// At most so many bytes has the event of a change.
fn size(change: &Change) -> usize {
    let value = change.config_data.as_ref();
    ENVELOPE_BYTES + value.map_or(0, |value| value.as_str().len())
}

#[cfg(test)]
mod tests {
    use contract::{CanonicalJson, Digest, Epoch, Operation, Revision};
    use proptest::prelude::*;

    use super::*;

    const LIMITS: CallLimits = CallLimits {
        calls: 2,
        events: 3,
        bytes: 10_000,
    };

    fn taken(collection: &str, revision: Revision, value_bytes: usize) -> TakenChange {
        let value = format!(r#"{{"a":"{}"}}"#, "x".repeat(value_bytes));
        let value = CanonicalJson::parse(value.as_bytes()).expect("JSON");
        TakenChange {
            change: Change {
                collection: collection.parse().expect("a name"),
                op: Operation::Update,
                id: "a".parse().expect("an id"),
                revision,
                epoch: Epoch {
                    lineage: 1,
                    counter: 1,
                },
                last_set: 0,
                crc: None,
                config_data: Some(value),
                change_set: None,
                time: chrono::DateTime::UNIX_EPOCH,
                count: 1,
                digest: Digest::default(),
                proof: None,
                context: contract::Context::default(),
            },
            span: Span::none(),
            swept: false,
        }
    }

    fn revisions(call: Option<(CollectionName, Vec<TakenChange>)>) -> Vec<Revision> {
        let (_collection, changes) = call.expect("a call");
        changes.iter().map(|taken| taken.change.revision).collect()
    }

    #[test]
    fn a_change_goes_at_once_and_those_that_come_during_the_calls_go_in_the_next_one() {
        let mut gathered = Gathered::new(LIMITS);
        gathered.add(taken("A", 1, 9));
        assert_eq!(revisions(gathered.next_call()), [1]);
        gathered.add(taken("A", 2, 9));
        assert_eq!(revisions(gathered.next_call()), [2]);
        for revision in 3..7 {
            gathered.add(taken("A", revision, 9));
            assert!(gathered.next_call().is_none(), "two calls already");
        }
        // Another collection has calls of its own.
        gathered.add(taken("B", 1, 9));
        assert_eq!(revisions(gathered.next_call()), [1]);
        gathered.call_ended(&"A".parse().expect("a name"));
        assert_eq!(revisions(gathered.next_call()), [3, 4, 5], "at most three");
        gathered.call_ended(&"A".parse().expect("a name"));
        assert_eq!(revisions(gathered.next_call()), [6]);
        assert!(gathered.next_call().is_none());
    }

    #[test]
    fn a_call_has_no_more_bytes_than_the_limit_unless_one_event_has() {
        let mut gathered = Gathered::new(LIMITS);
        for (revision, bytes) in [(1, 3_000), (2, 3_000), (3, 20_000), (4, 9)] {
            gathered.add(taken("A", revision, bytes));
        }
        assert_eq!(revisions(gathered.next_call()), [1]);
        assert_eq!(revisions(gathered.next_call()), [2]);
        gathered.call_ended(&"A".parse().expect("a name"));
        assert_eq!(revisions(gathered.next_call()), [3]);
    }

    proptest! {
        /// A step adds a change to a collection, or ends one of its calls.
        #[test]
        fn every_change_goes_once_in_order_within_the_limits(
            steps in proptest::collection::vec((0..3_usize, any::<bool>()), 0..200)
        ) {
            let names = ["A", "B", "C"];
            let mut gathered = Gathered::new(LIMITS);
            let mut added = [0; 3];
            let mut sent: [Vec<Revision>; 3] = Default::default();
            let mut calls = [0_usize; 3];
            // At the end all calls end, until nothing waits.
            let rest = (0..600).map(|step| (step % 3, false));
            for (index, adds) in steps.into_iter().chain(rest) {
                if adds {
                    added[index] += 1;
                    gathered.add(taken(names[index], added[index], 9));
                } else if calls[index] > 0 {
                    calls[index] -= 1;
                    gathered.call_ended(&names[index].parse().expect("a name"));
                }
                while let Some((name, changes)) = gathered.next_call() {
                    let index = names.iter().position(|known| *known == name.as_str());
                    let index = index.expect("a known name");
                    calls[index] += 1;
                    prop_assert!(calls[index] <= LIMITS.calls);
                    prop_assert!((1..=LIMITS.events).contains(&changes.len()));
                    sent[index].extend(changes.iter().map(|taken| taken.change.revision));
                }
            }
            for (sent, added) in sent.into_iter().zip(added) {
                prop_assert_eq!(sent, (1..=added).collect::<Vec<_>>());
            }
            prop_assert!(gathered.collections.is_empty());
        }
    }
}
