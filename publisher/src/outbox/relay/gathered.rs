//! Changes that wait for a call of the transport, by collection.
//!
//! A change waits only while its collection has as many calls as it may have; then the next call
//! carries all that wait, within the limits of a call. So a single change goes at once, and a backlog
//! goes in few calls. Nothing is sent here.

use std::collections::{BTreeMap, VecDeque};

use contract::{Change, CollectionName, TraceParent, event, fleet::Transport};
use tracing::{Span, field::Empty, trace_span};

use crate::transport::CallLimits;

/// Bytes of an event besides its value and the parts of its change set, at most: the envelope, the
/// context of the request, the signature.
const ENVELOPE_BYTES: usize = 6 << 10;
/// Bytes of a part of a change set besides the name of its collection, at most: the names of its
/// members, and two numbers.
const PART_BYTES: usize = 100;

/// A change that is in flight.
pub(super) struct TakenChange {
    pub(super) change: Change,
    /// The span of the write.
    pub(super) span: Span,
    /// The span of the attempt to send its event, in the trace of the write.
    pub(super) sending: Span,
    /// Whether it comes from the sweep.
    pub(super) swept: bool,
}

impl TakenChange {
    /// An attempt to send the event begins. Its span, if there is one, is the parent of what the event
    /// causes: the event names it, and not the request of the write.
    pub(super) fn begin_sending(&mut self, transport: Transport) {
        if !traces::enabled!() {
            return;
        }
        let of_request = self.change.context.traceparent().map(str::parse);
        let of_request: Option<TraceParent> = of_request.and_then(Result::ok);
        // A change of the log has the trace of its request alone, or none.
        if self.span.is_none() && of_request.is_none() {
            return;
        }
        let Change {
            collection,
            id,
            revision,
            ..
        } = &self.change;
        let span = trace_span!(
            target: traces::TARGET,
            parent: &self.span,
            "send",
            otel.name = %format_args!("send {collection}"),
            otel.kind = "producer",
            otel.status_code = Empty,
            error.r#type = Empty,
            messaging.system = transport.messaging_system(),
            messaging.operation.name = "send",
            messaging.operation.r#type = "send",
            messaging.destination.name = %collection,
            messaging.message.id = event::event_id(&self.change),
            confcast.document.id = %id,
            confcast.revision = revision,
        );
        if self.span.is_none()
            && let Some(of_request) = of_request
        {
            traces::continue_from(&span, of_request);
        }
        if let Some(own) = traces::traceparent(&span) {
            let context = std::mem::take(&mut self.change.context);
            // It has the form, so the context is never lost.
            let sent = context.clone().with_traceparent(&own.to_string());
            self.change.context = sent.unwrap_or(context);
        }
        self.sending = span;
    }

    /// The attempt failed.
    pub(super) fn note_failure(&self) {
        self.sending.record("otel.status_code", "ERROR");
        self.sending.record("error.type", "transport");
    }
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

/// Bytes of the event of a change, at most.
fn size(change: &Change) -> usize {
    let value = change.config_data.as_ref();
    let value = value.map_or(0, |value| value.as_str().len());
    let set = change.change_set.iter().flat_map(|set| &set.parts);
    let parts: usize = set
        .map(|part| PART_BYTES + part.collection.as_str().len())
        .sum();
    // A value that would make the event larger is not in it.
    (ENVELOPE_BYTES + value + parts).min(event::MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use contract::{CanonicalJson, Digest, Epoch, Operation, Revision};
    use proptest::prelude::*;

    use super::*;

    const LIMITS: CallLimits = CallLimits {
        calls: 2,
        events: 3,
        bytes: 30_000,
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
            sending: Span::none(),
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
        for (revision, bytes) in [(1, 10_000), (2, 10_000), (3, 40_000), (4, 9)] {
            gathered.add(taken("A", revision, bytes));
        }
        assert_eq!(revisions(gathered.next_call()), [1]);
        assert_eq!(revisions(gathered.next_call()), [2]);
        gathered.call_ended(&"A".parse().expect("a name"));
        assert_eq!(revisions(gathered.next_call()), [3]);
    }

    /// A value that is larger than an event is not in it.
    #[test]
    fn events_that_omit_their_values_share_a_call() {
        let mut gathered = Gathered::new(CallLimits {
            bytes: 3 * event::MAX_BYTES,
            ..LIMITS
        });
        for revision in 1..5 {
            gathered.add(taken("A", revision, 1_000_000));
        }
        assert_eq!(revisions(gathered.next_call()), [1, 2, 3]);
    }

    /// The largest that there are besides the value: a set over as many collections as it may have
    /// changes, and a context with the longest texts, of characters that JSON escapes.
    #[test]
    fn no_event_is_larger_than_it_was_counted() {
        let settings = crate::Settings::read(&["--collections", "A"]).expect("settings");
        let encoder = crate::bench_support::envelopes(&settings.events.expect("events"));
        let name = |number: usize| format!("A{number:0>63}").parse().expect("a name");
        let longest = "\"".repeat(contract::context::MAX_LEN);
        let context = contract::Context::default()
            .with_correlation_id(&longest)
            .and_then(|context| context.with_user_id(&longest))
            .and_then(|context| context.with_organisation_id(&longest))
            .and_then(|context| context.with_reason(&"\"".repeat(contract::context::MAX_REASON)));
        for (parts, value_bytes) in [
            (0, 9),
            (0, 40_000),
            (0, 1_000_000),
            (9, 9),
            (256, 9),
            (256, 40_000),
        ] {
            let mut change = taken("A", u64::MAX, value_bytes).change;
            change.collection = name(1);
            change.id = "i".repeat(128).parse().expect("an id");
            change.context = context.clone().expect("valid");
            change.change_set = Some(contract::ChangeSet {
                id: "i".repeat(128),
                parts: (0..parts)
                    .map(|part| contract::SetPart {
                        collection: name(part),
                        first: u64::MAX,
                        last: u64::MAX,
                    })
                    .collect(),
            });
            let event = encoder.for_sidecar(&change).expect("an event");
            assert!(
                event.len() <= size(&change),
                "{parts} parts, {value_bytes} bytes: {} of {}",
                event.len(),
                size(&change)
            );
        }
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
