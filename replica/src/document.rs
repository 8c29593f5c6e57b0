//! One document, kept fresh, for a process that needs no more: an agent its own configuration
//! (requirement A8).
//!
//! It hears the channel of that document alone and holds nothing else. With a single revision to
//! compare there are no gaps to heal: what an event cannot settle is settled by reading the
//! document. It is never taken back because a publisher is away, blank, or behind.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use broker::{BrokerEvent, ReceivedEvent, Subscription, listen};
use contract::{
    CollectionName, Document, DocumentId, Epoch, EventData, Operation, Revision,
    status::ReplicaState,
};
use futures_util::StreamExt;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use crate::{OriginError, Url, origin::Origin, redis::completed};

/// Time to read the document.
const READ_BUDGET: Duration = Duration::from_secs(2);
/// Wait after a reading that failed, in seconds.
const BACKOFF: std::ops::Range<f64> = 0.5..1.0;
/// How much of the interval passes between two readings.
const SHARE: std::ops::Range<f64> = 0.75..1.0;
/// One that nobody confirmed for this many intervals is stale.
const STALE_AFTER_INTERVALS: f64 = 2.5;

/// What a replica of one document must be told.
#[derive(Debug, Clone)]
pub struct DocumentConfig {
    /// Its collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// Where publishers answer, tried in turn. Not subscribers: the last word is a publisher's.
    pub publishers: Vec<Url>,
    /// The longest time between two readings.
    pub check_in: Duration,
    /// What brings its events.
    pub redis: broker::RedisConfig,
}

/// What is held.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// The document; `None` before the first reading, and when there is none.
    pub document: Option<Arc<Document>>,
    /// When a publisher was asked that last said what it is.
    pub confirmed: Option<Instant>,
    /// The history that is followed, and up to where it was seen.
    seen: Option<(Epoch, Revision)>,
}

/// What becomes of an event.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Nothing: it concerns another document, another history, or what was seen already.
    Ignored,
    /// It does not say what the document is now.
    Read,
    /// This is the document now.
    Hold(Revision, Option<Arc<Document>>),
}

/// A live copy of one document.
#[derive(Debug)]
pub struct DocumentReplica {
    config: DocumentConfig,
    origin: Origin,
    held: watch::Sender<Held>,
    last_error: Mutex<Option<String>>,
}

impl DocumentReplica {
    /// A replica that holds nothing yet; [`DocumentReplica::run`] reads and follows.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(config: DocumentConfig) -> Result<Self, reqwest::Error> {
        let origin = Origin::new(&config.publishers, None)?;
        Ok(Self {
            config,
            origin,
            held: watch::Sender::default(),
            last_error: Mutex::default(),
        })
    }

    /// What is held, to look at or to wait for.
    pub fn held(&self) -> watch::Receiver<Held> {
        self.held.subscribe()
    }

    /// How far it may be trusted: loading, stale or current.
    pub fn state(&self) -> ReplicaState {
        let patience = self.config.check_in.mul_f64(STALE_AFTER_INTERVALS);
        match self.held.borrow().confirmed {
            None => ReplicaState::Loading,
            Some(confirmed) if confirmed.elapsed() > patience => ReplicaState::Stale,
            Some(_lately) => ReplicaState::Current,
        }
    }

    /// Reads, then follows until `stop` resolves.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let DocumentConfig {
            collection,
            id,
            redis,
            check_in,
            ..
        } = &self.config;
        let wanted = Subscription::Document(collection.clone(), id.clone());
        let mut signals = pin!(listen(redis.clone(), wanted, broker::Cursors::new()));
        let (mut due, mut not_before) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                signal = signals.next() => if self.concerns(signal) {
                    due = not_before;
                },
                () = sleep_until(due.into()) => {
                    let read = self.read().await;
                    self.note(read.as_ref().err().map(ToString::to_string));
                    let now = Instant::now();
                    (not_before, due) = if read.is_ok() {
                        (now, now + check_in.mul_f64(rand::random_range(SHARE)))
                    } else {
                        let again = now + Duration::from_secs_f64(rand::random_range(BACKOFF));
                        (again, again)
                    };
                }
            }
        }
    }

    /// Takes a signal; whether the document must be read.
    fn concerns(&self, signal: Option<BrokerEvent>) -> bool {
        match signal {
            Some(BrokerEvent::Received(ReceivedEvent::Event { id, body, .. })) => {
                match self
                    .event(id, &body)
                    .map_or(Verdict::Ignored, |event| judge(&self.held.borrow(), event))
                {
                    Verdict::Ignored => false,
                    Verdict::Read => true,
                    Verdict::Hold(revision, document) => {
                        self.held.send_modify(|held| {
                            held.document = document;
                            held.seen = held.seen.map(|(epoch, _before)| (epoch, revision));
                        });
                        false
                    }
                }
            }
            // What was published before may have been missed.
            Some(BrokerEvent::Connected(_) | BrokerEvent::Received(ReceivedEvent::Lost { .. })) => {
                true
            }
            Some(BrokerEvent::Received(ReceivedEvent::Refused { error, .. })) => {
                self.note(Some(error));
                false
            }
            Some(BrokerEvent::Disconnected(error)) => {
                self.note(Some(format!(
                    "no events from Redis until it answers again: {error}"
                )));
                false
            }
            None => false,
        }
    }

    /// The event, if it is one of this document.
    fn event(&self, channel: Option<DocumentId>, body: &[u8]) -> Option<EventData> {
        let DocumentConfig { collection, id, .. } = &self.config;
        let data = completed(body, collection, channel.as_ref()).ok()?;
        let event: EventData = serde_json::from_value(data).ok()?;
        (event.collection == *collection && event.id == *id).then_some(event)
    }

    /// A blank or foreign store, a history that was left and an old copy are refused: what is held
    /// stays.
    async fn read(&self) -> Result<(), OriginError> {
        let DocumentConfig { collection, id, .. } = &self.config;
        let (asked, seen) = (Instant::now(), self.held.borrow().seen);
        let read = timeout(READ_BUDGET, self.origin.held(collection, id, seen)).await;
        let (head, document) = read.unwrap_or(Err(OriginError::TooLate(READ_BUDGET)))?;
        let revision = document
            .as_ref()
            .map_or(0, Document::revision)
            .max(head.revision);
        let document = document.map(Arc::new);
        self.held.send_if_modified(|held| {
            let changed = held.document != document || held.confirmed.is_none();
            *held = Held {
                document,
                confirmed: Some(asked),
                seen: Some((head.epoch, revision)),
            };
            changed
        });
        Ok(())
    }

    /// Logs a failure when it is new, and its end.
    fn note(&self, error: Option<String>) {
        let DocumentConfig { collection, id, .. } = &self.config;
        let mut last = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &error {
            Some(error) if last.as_ref() != Some(error) => {
                tracing::warn!(%collection, %id, "{collection}/{id}: {error}")
            }
            None if last.is_some() => {
                tracing::info!(%collection, %id, "{collection}/{id} is in step again")
            }
            _ => {}
        }
        *last = error;
    }
}

fn judge(held: &Held, event: EventData) -> Verdict {
    let (Some((epoch, seen)), Some(revision), Some(theirs)) =
        (held.seen, event.revision, event.epoch)
    else {
        return Verdict::Read;
    };
    if theirs.lineage != epoch.lineage || theirs.counter < epoch.counter {
        return Verdict::Ignored;
    }
    if theirs != epoch {
        return Verdict::Read;
    }
    if revision <= seen {
        return Verdict::Ignored;
    }
    match (event.op, event.config_data) {
        // It was gone when it was read, which may have been after this.
        _ if held.document.is_none() => Verdict::Read,
        (Operation::Delete, _) => Verdict::Hold(revision, None),
        (_, Some(config))
            if config.is_object() && event.crc.is_none_or(|crc| crc == config.crc()) =>
        {
            Verdict::Hold(
                revision,
                Some(Arc::new(Document::new(event.id, revision, &config))),
            )
        }
        _ => Verdict::Read,
    }
}

#[cfg(test)]
mod tests {
    use contract::CanonicalJson;
    use serde_json::json;

    use super::*;

    fn event(op: &str, epoch: Option<&str>, revision: Option<u64>, n: Option<u64>) -> EventData {
        let mut event = json!({"collection": "A", "op": op, "id": "x"});
        let given = [
            ("epoch", json!(epoch)),
            ("revision", json!(revision)),
            ("configData", json!(n.map(|n| json!({"n": n})))),
        ];
        given
            .into_iter()
            .filter(|(_name, value)| !value.is_null())
            .for_each(|(name, value)| event[name] = value);
        serde_json::from_value(event).expect("an event")
    }

    fn document(revision: u64, n: u64) -> Arc<Document> {
        let config =
            CanonicalJson::parse(json!({"n": n}).to_string().as_bytes()).expect("canonical");
        Arc::new(Document::new(
            "x".parse().expect("an id"),
            revision,
            &config,
        ))
    }

    #[test]
    fn an_event_is_taken_only_where_it_settles_something() {
        let ours = Some("0000000a-5");
        let seen = Some((
            ours.and_then(|epoch| epoch.parse().ok()).expect("an epoch"),
            7,
        ));
        let there = Held {
            document: Some(document(6, 1)),
            confirmed: None,
            seen,
        };
        let gone = Held {
            document: None,
            ..there.clone()
        };
        let newer = || event("Update", ours, Some(8), Some(2));
        assert_eq!(
            judge(&Held::default(), newer()),
            Verdict::Read,
            "nothing was read yet"
        );
        assert_eq!(
            judge(&there, newer()),
            Verdict::Hold(8, Some(document(8, 2)))
        );
        assert_eq!(
            judge(&there, event("Delete", ours, Some(8), None)),
            Verdict::Hold(8, None)
        );
        assert_eq!(
            judge(&there, event("Update", ours, Some(8), None)),
            Verdict::Read,
            "its value stayed at home"
        );
        assert_eq!(
            judge(&there, event("Update", ours, Some(7), Some(2))),
            Verdict::Ignored,
            "seen"
        );
        assert_eq!(
            judge(&gone, event("Update", ours, Some(7), Some(2))),
            Verdict::Ignored,
            "no resurrection"
        );
        assert_eq!(
            judge(&gone, newer()),
            Verdict::Read,
            "it may have been before the deletion"
        );
        assert_eq!(
            judge(&there, event("Update", None, None, Some(2))),
            Verdict::Read,
            "a publisher without revisions"
        );
        for (epoch, verdict) in [
            ("0000000a-4", Verdict::Ignored),
            ("0000000b-9", Verdict::Ignored),
            ("0000000a-6", Verdict::Read),
        ] {
            assert_eq!(
                judge(&there, event("Update", Some(epoch), Some(8), Some(2))),
                verdict,
                "{epoch}"
            );
        }
        let mut damaged = newer();
        damaged.crc = Some(document(1, 1).crc());
        assert_eq!(judge(&there, damaged), Verdict::Read);
    }
}
