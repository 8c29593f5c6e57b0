//! One document, kept fresh, for a process that needs no more: an agent its own configuration (seeds.md A8).
//!
//! It hears the channel of that document alone and holds nothing else. With a single revision to compare there are no gaps to
//! heal: what an event cannot settle is settled by reading the document. What it offers is never taken back because a
//! publisher is away.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use broker::{Heard, Signal, Wanted, listen};
use contract::{CollectionName, Document, DocumentId, Epoch, EventData, Operation, status::State};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use crate::{OriginError, Url, origin::Origin};

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
    pub redis: broker::Redis,
}

/// What is held.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// The document; `None` before the first reading, and when there is none.
    pub document: Option<Arc<Document>>,
    /// When a publisher was asked that last said what it is.
    pub confirmed: Option<Instant>,
}

/// A live copy of one document.
#[derive(Debug)]
pub struct DocumentReplica {
    config: DocumentConfig,
    origin: Origin,
    held: watch::Sender<Held>,
}

impl DocumentReplica {
    /// A replica that holds nothing yet; [`DocumentReplica::run`] reads and follows.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(config: DocumentConfig) -> Result<Self, reqwest::Error> {
        let origin = Origin::new(&config.publishers, None)?;
        Ok(Self { config, origin, held: watch::Sender::default() })
    }

    /// What is held, to look at or to wait for.
    pub fn held(&self) -> watch::Receiver<Held> {
        self.held.subscribe()
    }

    /// How far it may be trusted: loading, stale or current.
    pub fn state(&self) -> State {
        let patience = self.config.check_in.mul_f64(STALE_AFTER_INTERVALS);
        match self.held.borrow().confirmed {
            None => State::Loading,
            Some(confirmed) if confirmed.elapsed() > patience => State::Stale,
            Some(_lately) => State::Current,
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
        let DocumentConfig { collection, id, redis, check_in, .. } = &self.config;
        let wanted = Wanted::Document(collection.clone(), id.clone());
        let mut signals = pin!(listen(redis.clone(), wanted, broker::Cursors::new()));
        let (mut due, mut epoch) = (Instant::now(), None);
        loop {
            let read = tokio::select! {
                biased;
                signal = signals.next() => match signal {
                    Some(Signal::Heard(Heard::Event { id, body, .. })) => !self.take(id, &body, &mut epoch),
                    // What was published before may have been missed.
                    Some(Signal::Stands(_) | Signal::Heard(Heard::Lost { .. })) => true,
                    Some(Signal::Away(error)) => {
                        tracing::debug!("no events from Redis until it answers again: {error}");
                        false
                    }
                    None => return,
                },
                () = sleep_until(due.into()) => true,
            };
            if read {
                due = Instant::now();
                due += match self.read().await {
                    Ok(()) => check_in.mul_f64(rand::random_range(SHARE)),
                    Err(error) => {
                        tracing::warn!(%collection, %id, "{collection}/{id} cannot be read: {error}");
                        Duration::from_secs_f64(rand::random_range(BACKOFF))
                    }
                };
            }
        }
    }

    /// Takes an event, if it settles what the document is. `false`: it must be read. `epoch` is that of the last event.
    fn take(&self, channel: Option<DocumentId>, body: &[u8], epoch: &mut Option<Epoch>) -> bool {
        let Ok(mut data) = serde_json::from_slice::<Value>(body) else { return true };
        if let Value::Object(members) = &mut data {
            members.entry("collection").or_insert_with(|| self.config.collection.as_str().into());
            channel.map(|id| members.entry("id").or_insert_with(|| id.as_str().into()));
        }
        // What cannot be understood concerns nobody.
        let Ok(event) = serde_json::from_value::<EventData>(data) else { return true };
        if (&event.collection, &event.id) != (&self.config.collection, &self.config.id) {
            return true;
        }
        // In another history revisions count anew, and without a document or a revision there is nothing to compare.
        let same_history = event.epoch.is_some() && std::mem::replace(epoch, event.epoch) == event.epoch;
        let held = self.held.borrow().document.clone();
        let (Some(held), Some(revision), true) = (held, event.revision, same_history) else { return false };
        if revision <= held.revision() {
            return true;
        }
        let document = match (event.op, &event.config_data) {
            (Operation::Delete, _) => None,
            (_, Some(config)) if config.is_object() && event.crc.is_none_or(|crc| crc == config.crc()) => {
                Some(Arc::new(Document::new(event.id, revision, config)))
            }
            _ => return false,
        };
        self.held.send_modify(|held| held.document = document);
        true
    }

    async fn read(&self) -> Result<(), OriginError> {
        let DocumentConfig { collection, id, .. } = &self.config;
        let asked = Instant::now();
        let read = timeout(READ_BUDGET, self.origin.held(collection, id)).await;
        let document = read.unwrap_or(Err(OriginError::TooLate(READ_BUDGET)))?.map(Arc::new);
        self.held.send_if_modified(|held| {
            let changed = held.document != document || held.confirmed.is_none();
            *held = Held { document, confirmed: Some(asked) };
            changed
        });
        Ok(())
    }
}
