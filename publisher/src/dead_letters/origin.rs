//! Where events are signed: whether an event that is to become a dead letter is of a publisher. Anyone
//! who can write to the broker could make letters, and true ones would have to go for them.
//!
//! A signature of a known key proves it, and so does the change log, whichever key signed the event:
//! another publisher may have another key already, and this one knows no key of before its start. A
//! letter must have the name of its change, so that one change is one letter. Nothing here keeps one.

use contract::{
    Change, CollectionName, DocumentId, Epoch, EventData, Revision, canonical,
    dead_letter::{EventSummary, OriginalFrom},
    event,
    signature::{Statement, UnprovenEvent},
    text::Escaped,
};
use service::runtime::log_rate::LogRate;
use tracing::warn;

use super::{DeadLetterError, DeadLetters, arrival::Arrival};

impl DeadLetters {
    /// Whether an event is kept, with the reason if it is not. One that is not is counted and logged.
    ///
    /// # Errors
    /// When the change log has to be read and cannot be.
    pub(super) async fn check_origin(
        &self,
        arrival: &Arrival,
        original: &[u8],
    ) -> Result<Result<(), UnprovenEvent>, DeadLetterError> {
        let Some(signer) = &self.signer else {
            return Ok(Ok(()));
        };
        let claim = Claim::of(arrival, original);
        let checked = match &claim {
            Some(Claim::Event(data)) => signer.verify(data),
            Some(Claim::Part { .. }) | None => Err(UnprovenEvent::Unsigned),
        };
        let Err(cause) = checked else {
            return Ok(Ok(()));
        };
        if let Some(claim) = claim
            && self.is_committed(&claim).await?
        {
            return Ok(Ok(()));
        }
        self.metrics.dead_letter_unproven(cause.as_str());
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            let reason = cause.as_str();
            let event = arrival.event.event_id.as_deref();
            warn!(
                reason,
                "the event {} is not kept as a dead letter ({reason}): {cause}, and the change log \
                 does not have its change{left_out}",
                Escaped(event.unwrap_or("without an id"))
            );
        }
        Ok(Err(cause))
    }

    /// Whether the change log has the change of an event.
    async fn is_committed(&self, claim: &Claim) -> Result<bool, DeadLetterError> {
        let Some((collection, _epoch, revision)) = claim.position() else {
            return Ok(false);
        };
        let _place = self.proven.take().await?;
        let found = self.store.record(collection, revision).await?;
        Ok(found.is_some_and(|change| claim.is_of(&change)))
    }
}

/// What an event says of its change.
enum Claim {
    /// All of it.
    Event(Box<EventData>),
    /// Only a part of the event was reported, because it is large.
    Part {
        collection: CollectionName,
        epoch: Epoch,
        revision: Revision,
        id: DocumentId,
    },
}

impl Claim {
    /// `None` when the event has no change that could be known.
    fn of(arrival: &Arrival, original: &[u8]) -> Option<Self> {
        if !arrival.is_part(original) {
            return event_data(original, arrival.from)
                .map(Box::new)
                .map(Self::Event);
        }
        let event = &arrival.event;
        let (collection, epoch) = (event.collection.clone()?, event.epoch?);
        let (revision, id) = (event.revision?, event.document.clone()?);
        is_named(event, &collection, epoch, revision).then_some(Self::Part {
            collection,
            epoch,
            revision,
            id,
        })
    }

    /// Where the change is; `None` where no change can be.
    fn position(&self) -> Option<(&CollectionName, Epoch, Revision)> {
        let (collection, epoch, revision) = match self {
            Self::Event(data) => (&data.collection, data.epoch?, data.revision?),
            Self::Part {
                collection,
                epoch,
                revision,
                ..
            } => (collection, *epoch, *revision),
        };
        // A revision is a number of 63 bits wherever it is stored.
        i64::try_from(revision).ok()?;
        Some((collection, epoch, revision))
    }

    /// Whether it is what a publisher says of this change.
    fn is_of(&self, change: &Change) -> bool {
        match self {
            Self::Event(data) => data.statement() == Some(Statement::of(change)),
            Self::Part {
                collection,
                epoch,
                revision,
                id,
            } => {
                (collection, epoch, revision, id)
                    == (
                        &change.collection,
                        &change.epoch,
                        &change.revision,
                        &change.id,
                    )
            }
        }
    }
}

/// The data of an event, in an envelope or bare. The envelope is not signed, and a letter has the
/// name of its source and id: these must be those of the change, else one signed event could be any
/// number of letters. What a sidecar moves has an envelope.
fn event_data(original: &[u8], from: OriginalFrom) -> Option<EventData> {
    let mut event = canonical::value(original).ok()?;
    if event.get("specversion").is_none() {
        let is_bare = from == OriginalFrom::Reported;
        return is_bare
            .then(|| serde_json::from_value(event).ok())
            .flatten();
    }
    let data: EventData = serde_json::from_value(event.get_mut("data")?.take()).ok()?;
    let name = event::event_id_at(&data.collection, data.epoch?, data.revision?);
    (event.get("source")? == event::SOURCE && event.get("id")? == name.as_str()).then_some(data)
}

/// As [`event_data`], of what is known of a part.
fn is_named(
    event: &EventSummary,
    collection: &CollectionName,
    epoch: Epoch,
    revision: Revision,
) -> bool {
    let name = event::event_id_at(collection, epoch, revision);
    event.source.as_deref() == Some(event::SOURCE)
        && event.event_id.as_deref() == Some(name.as_str())
}
