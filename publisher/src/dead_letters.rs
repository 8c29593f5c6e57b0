//! Dead letters: events that no replica took are kept with reason, time and original, until an
//! operator sends them again or discards them.
//!
//! A letter arrives from the sidecar, which reads the dead letter topic, or from the replica that
//! dropped the event ([`arrival`]). Both are one letter. Everything in it is a claim of another
//! process: it is bounded and shown, and decides nothing. What is sent again is the change of the
//! change log, never a copy of it ([`replay`]). Nothing here changes a document.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use contract::{
    CollectionName,
    dead_letter::{
        DeadLetter, DeadLetterId, DeadLetterList, DeadLetterReason, DeadLetterReplayed,
        DeadLetterReport, Original, ReplayRequest, Replayed,
    },
    text::Escaped,
};
use futures_util::FutureExt;
use service::runtime::log_rate::LogRate;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tracing::warn;

use crate::{
    metrics::Metrics,
    store::{
        Store,
        dead_letters::{LetterCounts, LetterDurability, StoredLetter},
    },
    transport::{Sent, Transport, signer::EventSigner},
};

mod arrival;
mod error;
mod origin;
mod replay;

use arrival::{Arrival, merged};
pub use error::DeadLetterError;
use replay::{Plan, plan};

/// Letters of sidecars that are stored at the same time; above it a sidecar delivers again later. Each
/// is durable before its answer, so that few of them wait between two groups of writes.
const MOVED: usize = 2;
/// Reports that are stored at the same time, and that wait for it; above it a replica reports again. None
/// of them waits for the disk.
const REPORTED: usize = 1;
const WAITING: usize = 32;
/// Events that are looked up in the change log at the same time.
const PROVEN: usize = 1;
/// How long an arrival waits for its place: a sidecar gives a delivery 3 s (dapr-config/resiliency.yaml).
const PLACE_TIME: Duration = Duration::from_secs(2);

/// A report that was read: what it would add to a letter.
#[derive(Debug)]
pub struct Reported {
    arrival: Arrival,
    original: Vec<u8>,
}

impl Reported {
    /// # Errors
    /// When the report is not valid.
    pub fn read(report: DeadLetterReport) -> Result<Self, DeadLetterError> {
        let original = report.original.bytes().unwrap_or_default();
        let arrival = Arrival::reported(report, now())?;
        Ok(Self { arrival, original })
    }

    /// The collection that the letter would be of. The original decides it, where it can be read, and
    /// not what the report says of it.
    pub fn collection(&self) -> Option<&CollectionName> {
        self.arrival.event.collection.as_ref()
    }
}

/// The dead letters of a store. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    store: Store,
    transport: Option<Arc<Transport>>,
    metrics: Arc<Metrics>,
    moved: Arc<Places>,
    reported: Arc<Places>,
    /// Places for events that are looked up in the change log.
    proven: Arc<Places>,
    /// Tells the events of publishers from those of others, where events are signed.
    signer: Option<EventSigner>,
}

/// Places for arrivals, and for those that wait for one.
#[derive(Debug)]
struct Places {
    waiting: Semaphore,
    storing: Semaphore,
}

impl Places {
    fn new(storing: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: Semaphore::new(storing + WAITING),
            storing: Semaphore::new(storing),
        })
    }

    /// Waits for a place, which is held until the answer is dropped.
    ///
    /// # Errors
    /// When too many wait, or it takes too long.
    async fn take(&self) -> Result<[SemaphorePermit<'_>; 2], DeadLetterError> {
        let waiting = self.waiting.try_acquire();
        let waiting = waiting.map_err(|_full| DeadLetterError::Busy)?;
        match timeout(PLACE_TIME, self.storing.acquire()).await {
            Ok(Ok(storing)) => Ok([waiting, storing]),
            // The semaphore is never closed.
            Ok(Err(_closed)) => Err(DeadLetterError::Busy),
            Err(_late) => Err(DeadLetterError::Busy),
        }
    }
}

/// Which letters a request is about.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// Those whose event names this collection.
    pub collection: Option<CollectionName>,
    /// Those with this reason.
    pub reason: Option<DeadLetterReason>,
    /// Those that were sent again since they arrived last, or those that were not.
    pub replayed: Option<bool>,
}

impl LetterFilter {
    fn selects(&self, letter: &DeadLetter) -> bool {
        let of_collection = (self.collection.as_ref())
            .is_none_or(|collection| letter.event.collection.as_ref() == Some(collection));
        of_collection
            && self.reason.is_none_or(|reason| letter.reason == reason)
            && self
                .replayed
                .is_none_or(|replayed| letter.is_open() != replayed)
    }
}

/// Where a page of letters begins: after the letter with this time and name. As text:
/// `<milliseconds>-<name>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterCursor(i64, DeadLetterId);

impl LetterCursor {
    fn of(letter: &DeadLetter) -> Self {
        Self(letter.last.timestamp_millis(), letter.id)
    }

    /// The cursor of a text; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (time, id) = text.rsplit_once('-')?;
        Some(Self(time.parse().ok()?, id.parse().ok()?))
    }
}

impl DeadLetters {
    /// The dead letters of a store. `transport` sends them again.
    pub fn new(store: Store, transport: Option<Arc<Transport>>, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            transport,
            metrics,
            moved: Places::new(MOVED),
            reported: Places::new(REPORTED),
            proven: Places::new(PROVEN),
            signer: None,
        }
    }

    /// With a key only events of publishers are kept, see [`origin`].
    #[must_use]
    pub fn of_signed_events(self, signer: Option<EventSigner>) -> Self {
        Self { signer, ..self }
    }

    /// Keeps an event that a sidecar moved to the dead letter topic: the bytes of the topic.
    ///
    /// # Errors
    /// When it is not stored: too many arrive, or the store does not answer.
    pub async fn add_moved(&self, original: &[u8]) -> Result<DeadLetterId, DeadLetterError> {
        let arrival = Arrival::moved(original, now());
        // An answer that asks for it again would bring it again.
        if self.check_origin(&arrival, original).await?.is_err() {
            return Ok(arrival.id);
        }
        self.add(arrival, &self.moved, LetterDurability::Now).await
    }

    /// Keeps an event that a replica dropped.
    ///
    /// # Errors
    /// As [`Self::add_moved`], and when the event is not of a publisher.
    pub async fn add_reported(&self, reported: Reported) -> Result<DeadLetterId, DeadLetterError> {
        let Reported { arrival, original } = reported;
        if let Err(cause) = self.check_origin(&arrival, &original).await? {
            return Err(DeadLetterError::InvalidReport {
                pointer: "/original",
                reason: format!(
                    "No publisher has signed this event, and it is not of a change of the log: {cause}"
                ),
            });
        }
        self.add(arrival, &self.reported, LetterDurability::Soon)
            .await
    }

    async fn add(
        &self,
        arrival: Arrival,
        places: &Places,
        durability: LetterDurability,
    ) -> Result<DeadLetterId, DeadLetterError> {
        let _place = places.take().await?;
        let id = arrival.id;
        let merge = move |stored| Some(merged(stored, &arrival));
        let changed = self.store.change_dead_letter(id, durability, merge).await?;
        self.metrics.dead_letters_evicted.inc_by(changed.evicted);
        if let Some(letter) = changed.letter.filter(|_letter| changed.is_new) {
            self.metrics.dead_letter(letter.reason);
            log(&letter);
        }
        Ok(id)
    }

    /// A page of letters without their originals, the one that arrived last first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn page(
        &self,
        filter: &LetterFilter,
        before: Option<LetterCursor>,
        limit: usize,
    ) -> Result<DeadLetterList, DeadLetterError> {
        // The bounds of the store make this a short list.
        let all = self.store.dead_letters().await?;
        let count = |letters: usize| u64::try_from(letters).unwrap_or(u64::MAX);
        let kept = count(all.len());
        let open = count(all.iter().filter(|letter| letter.is_open()).count());
        let mut rest = all.into_iter().filter(|letter| {
            before.is_none_or(|before| LetterCursor::of(letter) < before) && filter.selects(letter)
        });
        let items: Vec<_> = rest.by_ref().take(limit).collect();
        let next = match (rest.next(), items.last()) {
            (Some(_further), Some(last)) => {
                let LetterCursor(time, id) = LetterCursor::of(last);
                Some(format!("{time}-{id}"))
            }
            _end => None,
        };
        Ok(DeadLetterList {
            items,
            next,
            kept,
            open,
        })
    }

    /// A letter with its original.
    ///
    /// # Errors
    /// When there is none, or the store cannot be read.
    pub async fn get(&self, id: DeadLetterId) -> Result<DeadLetter, DeadLetterError> {
        let stored = self.store.dead_letter(id).await?;
        let stored = stored.ok_or(DeadLetterError::Unknown(id))?;
        Ok(DeadLetter {
            original: Original::of(&stored.original),
            ..stored.letter
        })
    }

    /// How many letters there are; `None` when the store does not answer.
    pub async fn counts(&self) -> Option<LetterCounts> {
        self.store.dead_letter_counts().await.ok()
    }

    /// Removes a letter.
    ///
    /// # Errors
    /// When there is none, or the store cannot be written.
    pub async fn discard(&self, id: DeadLetterId) -> Result<(), DeadLetterError> {
        match self.store.remove_dead_letters(vec![id]).await? {
            0 => Err(DeadLetterError::Unknown(id)),
            _removed => Ok(()),
        }
    }

    /// Removes the letters that a filter selects, and says how many they were.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn discard_all(&self, filter: &LetterFilter) -> Result<u64, DeadLetterError> {
        let letters = self.store.dead_letters().await?;
        let selected = letters.iter().filter(|letter| filter.selects(letter));
        let ids = selected.map(|letter| letter.id).collect();
        Ok(self.store.remove_dead_letters(ids).await?)
    }

    /// Sends the event of a letter again, through the transport and with a new time to live. The
    /// letter stays, and says when that was, if the broker or a subscriber took the event.
    ///
    /// # Errors
    /// When there is no such letter, its event cannot be sent again, or neither the broker nor a
    /// subscriber takes it: the letter is then as it was.
    pub async fn replay(
        &self,
        id: DeadLetterId,
        request: ReplayRequest,
    ) -> Result<DeadLetterReplayed, DeadLetterError> {
        let stored = self.store.dead_letter(id).await?;
        let stored = stored.ok_or(DeadLetterError::Unknown(id))?;
        let transport = self.transport.as_ref().ok_or_else(|| {
            DeadLetterError::NotReplayable("this publisher sends no events".to_owned())
        })?;
        let served = &self.store.policy().collections.all();
        let plan = plan(&stored, served).map_err(DeadLetterError::NotReplayable)?;
        self.check_broadcast(&plan)?;
        let (kind, sent) = match plan {
            Plan::Change {
                collection,
                epoch,
                revision,
            } => {
                let found = self.store.record(&collection, revision).await?;
                let change = found.filter(|change| change.epoch == epoch);
                let change = change.ok_or_else(|| {
                    DeadLetterError::NotReplayable(format!(
                        "the change log of {collection} has no revision {revision} of the epoch \
                         {epoch}: it was trimmed, or the event is of another store"
                    ))
                })?;
                if request.dry_run {
                    return Ok(dry_run(Replayed::Change, stored));
                }
                // Boxed, because the futures of the clients are nested almost as deep as the
                // compiler allows.
                (Replayed::Change, transport.publish(&change).boxed().await)
            }
            Plan::Original(_original) if request.dry_run => {
                return Ok(dry_run(Replayed::Original, stored));
            }
            Plan::Original(original) => {
                let sent = transport.send_original(&original).boxed().await;
                (Replayed::Original, sent)
            }
        };
        let (taken_by, not_taken_by) = match sent.map_err(DeadLetterError::NotSent)? {
            Sent::ToBroker => (None, None),
            Sent::ToSubscribers(deliveries) if deliveries.taken == 0 => {
                return Err(DeadLetterError::NotTaken(deliveries));
            }
            Sent::ToSubscribers(deliveries) => (
                Some(deliveries.taken),
                Some(deliveries.dropped + deliveries.failed),
            ),
        };
        self.metrics.dead_letters_replayed.inc();
        let time = now();
        let mark = move |stored: Option<StoredLetter>| {
            let mut stored = stored?;
            stored.letter.replayed = Some(time.max(stored.letter.last));
            stored.letter.replays = stored.letter.replays.saturating_add(1);
            Some(stored)
        };
        let durability = LetterDurability::Soon;
        let marked = self.store.change_dead_letter(id, durability, mark).await?;
        Ok(DeadLetterReplayed {
            sent: kind,
            taken_by,
            not_taken_by,
            // It was discarded meanwhile: it was sent all the same.
            letter: marked.letter.unwrap_or(stored.letter),
        })
    }

    /// Nothing is sent again that this publisher would not send.
    fn check_broadcast(&self, plan: &Plan) -> Result<(), DeadLetterError> {
        let broadcast = &self.store.policy().broadcast;
        let collection = plan.collection();
        let refused = if !broadcast.publishes(collection) {
            "sends no events of"
        } else if !plan.is_id_only() && broadcast.is_id_only(collection) {
            "sends ids alone in the events of"
        } else {
            return Ok(());
        };
        Err(DeadLetterError::NotReplayable(format!(
            "this publisher {refused} {collection}"
        )))
    }
}

/// What would be sent. The letter stays as it is.
fn dry_run(sent: Replayed, stored: StoredLetter) -> DeadLetterReplayed {
    DeadLetterReplayed {
        sent,
        taken_by: None,
        not_taken_by: None,
        letter: stored.letter,
    }
}

/// As exact as both stores keep it.
fn now() -> DateTime<Utc> {
    let now = Utc::now();
    DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now)
}

fn log(letter: &DeadLetter) {
    static LETTERS: LogRate = LogRate::new();
    if let Some(left_out) = LETTERS.due() {
        let id = letter.id;
        let reason = letter.reason.as_str();
        let detail = letter.detail.as_deref().unwrap_or("no reason is known");
        warn!(
            %id, reason,
            "an event became the dead letter {id} ({reason}): {}{left_out}",
            Escaped(detail)
        );
    }
}

#[cfg(test)]
mod tests;
