//! A replica of one document, for a process that needs no more, as an agent its own configuration
//! (requirement A8).
//!
//! It subscribes to the channel of that document and holds nothing else. With a single revision to
//! compare there are no gaps: when an event does not settle what the document is, the document is
//! read. The document never goes back because a publisher is unavailable, blank or behind.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use broker::{BrokerEvent, ReceivedEvent, Subscription, listen};
use client::RetryPolicy;
use contract::{
    CollectionName, Document, DocumentId, Epoch, EventData, Operation, Revision, canonical,
    signature::UnprovenEvent, status::ReplicaState,
};
use futures_util::StreamExt;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use crate::{
    CredentialError, Credentials, EventKeys, SecretUrl, SourceError,
    failure_log::{FailureLevel, FailureLog, LogRate},
    intake::{is_id_only, redis::with_channel},
    source::PublisherSource,
    sync::gap_of_changed,
};

/// Time to read the document.
const READ_BUDGET: Duration = Duration::from_secs(2);
/// How much of the interval passes between two readings.
const READ_SHARE: std::ops::Range<f64> = 0.75..1.0;
/// A document that no publisher confirmed for this many intervals is stale.
const STALE_AFTER_INTERVALS: f64 = 2.5;

/// The configuration of a replica of one document.
#[derive(Debug, Clone)]
pub struct DocumentConfig {
    /// Its collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// Base URLs of publishers, tried in turn. Not of subscribers: only a publisher decides what the
    /// document is.
    pub publishers: Vec<SecretUrl>,
    /// What publishers are shown, and which of them are trusted.
    pub credentials: Credentials,
    /// The longest time between two readings.
    pub check_in: Duration,
    /// The source of its events.
    pub redis: broker::RedisConfig,
    /// See [`Config::event_keys`](crate::Config::event_keys).
    pub event_keys: Option<EventKeys>,
}

/// The document at one moment.
#[derive(Debug, Clone, Default)]
pub struct DocumentView {
    /// The document; `None` before the first read, and when it does not exist.
    pub document: Option<Arc<Document>>,
    /// When the document was requested that a publisher last answered with.
    pub confirmed: Option<Instant>,
    /// The history that is followed, and up to which revision it was seen.
    seen: Option<(Epoch, Revision)>,
}

/// What becomes of an event.
#[derive(Debug, PartialEq)]
enum Decision {
    /// Nothing: it is of another document or history, or its revision was seen.
    Ignore,
    /// It does not settle what the document is: read the document.
    Read,
    /// No publisher has signed it. The document is read, once in an interval.
    Unproven(UnprovenEvent),
    /// This is the document now.
    Replace(Revision, Option<Arc<Document>>),
}

/// Why the document is read at once, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadFor {
    /// It is not.
    Nothing,
    /// For an event, or after a connection.
    Event,
    /// For an event that no publisher has signed.
    Unproven,
}

/// A live copy of one document.
///
/// It is not registered with the publisher: it makes no check-ins and has no status of its own.
#[derive(Debug)]
pub struct DocumentReplica {
    /// Which document, and where it comes from.
    config: DocumentConfig,
    /// The publishers.
    source: PublisherSource,
    /// The document at this moment.
    view: watch::Sender<DocumentView>,
    /// What was logged of the current failure.
    failures: Mutex<FailureLog>,
}

impl DocumentReplica {
    /// A replica that holds nothing yet; [`DocumentReplica::run`] reads and follows.
    ///
    /// # Errors
    /// When the HTTP client cannot be built, or the credentials must not be sent to a publisher.
    pub fn new(config: DocumentConfig) -> Result<Self, CredentialError> {
        let source = PublisherSource::new(&config.publishers, &config.credentials, None)?;
        Ok(Self {
            config,
            source,
            view: watch::Sender::default(),
            failures: Mutex::new(FailureLog::new(Instant::now())),
        })
    }

    /// The document, to read and to wait for.
    pub fn view(&self) -> watch::Receiver<DocumentView> {
        self.view.subscribe()
    }

    /// How far the document may be trusted: loading, stale or current.
    pub fn state(&self) -> ReplicaState {
        let stale_after = self.config.check_in.mul_f64(STALE_AFTER_INTERVALS);
        match self.view.borrow().confirmed {
            None => ReplicaState::Loading,
            // Old, but the last good value all the same.
            Some(confirmed) if confirmed.elapsed() > stale_after => ReplicaState::Stale,
            Some(_recently) => ReplicaState::Current,
        }
    }

    /// Reads, then follows until `stop` resolves.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.follow() => {}
        }
    }

    /// Follows events and reads, and never ends.
    async fn follow(&self) {
        let DocumentConfig {
            collection,
            id,
            redis,
            check_in,
            ..
        } = &self.config;
        let subscription = Subscription::Document(collection.clone(), id.clone());
        let mut events = pin!(listen(redis.clone(), subscription, broker::Cursors::new()));
        let mut read_at = Instant::now();
        // An event that asks for a read never shortens the wait after a failure, and keeps a distance to
        // the last read: anyone may send such events.
        let mut not_before = read_at;
        // Anyone may send such events, in any number.
        let mut unproven_read: Option<Instant> = None;
        // Reads in a row that brought nothing.
        let mut fruitless = 0_u32;
        let keys = self.config.event_keys.clone();
        let mut reloading = pin!(async {
            match &keys {
                Some(keys) => keys.reload().await,
                None => std::future::pending().await,
            }
        });
        loop {
            tokio::select! {
                // Not before the wait after a failure is over.
                event = events.next() => match self.read_for(event) {
                    ReadFor::Nothing => {}
                    ReadFor::Event => read_at = not_before,
                    ReadFor::Unproven => {
                        let now = Instant::now();
                        if unproven_read.is_none_or(|last| now >= last + *check_in) {
                            unproven_read = Some(now);
                            read_at = not_before;
                        }
                    }
                },
                () = &mut reloading => {}
                () = sleep_until(read_at.into()) => {
                    let read = self.read().await;
                    self.note(read.as_ref().err().map(ToString::to_string));
                    fruitless = match read {
                        Ok(false) => fruitless.saturating_add(1),
                        Ok(true) | Err(_) => 0,
                    };
                    not_before = Instant::now();
                    // Replicas that started together drift apart.
                    if read.is_ok() {
                        read_at = not_before + check_in.mul_f64(rand::random_range(READ_SHARE));
                        not_before += gap_of_changed(fruitless);
                    } else {
                        not_before += RetryPolicy::REPLICA_SYNC.waits().next_wait();
                        read_at = not_before;
                    }
                }
            }
        }
    }

    /// Takes an event of the broker. Returns whether the document must be read.
    fn read_for(&self, event: Option<BrokerEvent>) -> ReadFor {
        match event {
            Some(BrokerEvent::Received(ReceivedEvent::Event { id, body, .. })) => {
                let decision = self.decision(id, &body).unwrap_or(Decision::Ignore);
                match decision {
                    Decision::Ignore => ReadFor::Nothing,
                    Decision::Read => ReadFor::Event,
                    Decision::Unproven(cause) => {
                        static LINES: LogRate = LogRate::new();
                        if let Some(left_out) = LINES.due() {
                            let DocumentConfig { collection, id, .. } = &self.config;
                            let reason = cause.as_str();
                            tracing::warn!(
                                reason, %collection, %id,
                                "an event of {collection}/{id} was dropped ({reason}): {cause}; the \
                                 document is read{left_out}"
                            );
                        }
                        ReadFor::Unproven
                    }
                    Decision::Replace(revision, document) => {
                        self.view.send_modify(|view| {
                            view.document = document;
                            view.seen = view.seen.map(|(epoch, _before)| (epoch, revision));
                        });
                        ReadFor::Nothing
                    }
                }
            }
            // Events of before may have been missed.
            Some(BrokerEvent::Connected(_) | BrokerEvent::Received(ReceivedEvent::Lost { .. })) => {
                ReadFor::Event
            }
            // The channel cannot be read; the interval brings the document.
            Some(BrokerEvent::Received(ReceivedEvent::Refused { error, .. })) => {
                self.note(Some(error));
                ReadFor::Nothing
            }
            // The read at the next connection finds what was missed.
            Some(BrokerEvent::Disconnected(error)) => {
                self.note(Some(format!("no events come until Redis answers: {error}")));
                ReadFor::Nothing
            }
            None => ReadFor::Nothing,
        }
    }

    /// What becomes of an event, if it is of this document.
    /// Its channel gives what the data leaves out.
    fn decision(&self, channel: Option<DocumentId>, body: &[u8]) -> Option<Decision> {
        let DocumentConfig { collection, id, .. } = &self.config;
        let data = canonical::value(body).ok()?;
        // It says that the document may have changed, and not how (requirement D1).
        if is_id_only(&data) {
            return (data["id"] == id.as_str()).then_some(Decision::Read);
        }
        let data = with_channel(data, collection, channel.as_ref());
        let event: EventData = serde_json::from_value(data).ok()?;
        let is_of_this = event.collection == *collection && event.id == *id;
        if is_of_this
            && let Some(keys) = &self.config.event_keys
            && let Err(cause) = keys.verify_event(&event)
        {
            return Some(Decision::Unproven(cause));
        }
        is_of_this.then(|| decide(&self.view.borrow(), event))
    }

    /// Reads the document, and says whether it or what is known of it changed. A blank or foreign store, an older history and an old copy are refused:
    /// what is held stays.
    ///
    /// # Errors
    /// When no publisher gave the document within [`READ_BUDGET`], or what it offers is refused.
    async fn read(&self) -> Result<bool, SourceError> {
        let DocumentConfig { collection, id, .. } = &self.config;
        let requested_at = Instant::now();
        let seen = self.view.borrow().seen;
        let (head, document) = timeout(READ_BUDGET, self.source.held(collection, id, seen))
            .await
            .unwrap_or(Err(SourceError::TooLate(READ_BUDGET)))?;
        // The head may be lower where the document was written after the head was read.
        let revision = document
            .as_ref()
            .map_or(0, Document::revision)
            .max(head.revision);
        let document = document.map(Arc::new);
        let changed = self.view.send_if_modified(|view| {
            // Readers are woken by another document only, and by the first answer.
            let changed = view.document != document || view.confirmed.is_none();
            *view = DocumentView {
                document,
                confirmed: Some(requested_at),
                seen: Some((head.epoch, revision)),
            };
            changed
        });
        Ok(changed)
    }

    /// Logs a failure when it is new, and its end.
    fn note(&self, error: Option<String>) {
        let DocumentConfig { collection, id, .. } = &self.config;
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error else {
            if failures.succeeded() {
                tracing::info!(%collection, %id, "{collection}/{id} is in step again");
            }
            return;
        };
        match failures.failed(&error, Instant::now()) {
            FailureLevel::Info => {
                tracing::info!(%collection, %id, "{collection}/{id} waits for its publisher: {error}");
            }
            FailureLevel::Warn | FailureLevel::Error => {
                tracing::warn!(%collection, %id, "{collection}/{id} keeps its last value until this is over: {error}");
            }
            FailureLevel::Debug => {
                tracing::debug!(%collection, %id, "{collection}/{id} still keeps its last value: {error}");
            }
        }
    }
}

/// What becomes of an event of the document.
/// It depends on the view alone, and changes nothing.
fn decide(view: &DocumentView, event: EventData) -> Decision {
    let (Some((epoch, seen)), Some(revision), Some(event_epoch)) =
        (view.seen, event.revision, event.epoch)
    else {
        return Decision::Read;
    };
    // Another store, or an earlier history: a late event of a publisher that was restored.
    if event_epoch.lineage != epoch.lineage || event_epoch.counter < epoch.counter {
        return Decision::Ignore;
    }
    // A newer history: only the document itself tells what is in it.
    if event_epoch != epoch {
        return Decision::Read;
    }
    // Late, or delivered twice.
    if revision <= seen {
        return Decision::Ignore;
    }
    match (event.op, event.config_data) {
        // It did not exist when it was read, which may have been after this event.
        _ if view.document.is_none() => Decision::Read,
        (Operation::Delete, _) => Decision::Replace(revision, None),
        (_, Some(config))
            if config.is_object() && event.crc.is_none_or(|crc| crc == config.crc()) =>
        {
            Decision::Replace(
                revision,
                Some(Arc::new(Document::new(event.id, revision, &config))),
            )
        }
        _ => Decision::Read,
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
    fn an_event_replaces_the_document_only_when_it_settles_what_it_is() {
        let ours = Some("0000000a-5");
        let seen = Some((
            ours.and_then(|epoch| epoch.parse().ok()).expect("an epoch"),
            7,
        ));
        let existing = DocumentView {
            document: Some(document(6, 1)),
            confirmed: None,
            seen,
        };
        let deleted = DocumentView {
            document: None,
            ..existing.clone()
        };
        let newer = || event("Update", ours, Some(8), Some(2));
        assert_eq!(
            decide(&DocumentView::default(), newer()),
            Decision::Read,
            "the document was not read yet"
        );
        assert_eq!(
            decide(&existing, newer()),
            Decision::Replace(8, Some(document(8, 2)))
        );
        assert_eq!(
            decide(&existing, event("Delete", ours, Some(8), None)),
            Decision::Replace(8, None)
        );
        assert_eq!(
            decide(&existing, event("Update", ours, Some(8), None)),
            Decision::Read,
            "the event omits the value"
        );
        assert_eq!(
            decide(&existing, event("Update", ours, Some(7), Some(2))),
            Decision::Ignore,
            "its revision was seen"
        );
        assert_eq!(
            decide(&deleted, event("Update", ours, Some(7), Some(2))),
            Decision::Ignore,
            "a deleted document does not come back"
        );
        assert_eq!(
            decide(&deleted, newer()),
            Decision::Read,
            "it may have been before the deletion"
        );
        assert_eq!(
            decide(&existing, event("Update", None, None, Some(2))),
            Decision::Read,
            "a publisher without revisions"
        );
        for (epoch, decision) in [
            ("0000000a-4", Decision::Ignore),
            ("0000000b-9", Decision::Ignore),
            ("0000000a-6", Decision::Read),
        ] {
            assert_eq!(
                decide(&existing, event("Update", Some(epoch), Some(8), Some(2))),
                decision,
                "{epoch}"
            );
        }
        let mut damaged = newer();
        damaged.crc = Some(document(1, 1).crc());
        assert_eq!(decide(&existing, damaged), Decision::Read);
    }
}
