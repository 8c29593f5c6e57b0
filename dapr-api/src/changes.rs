//! What a subscription sends: the values of its keys, then their changes.
//!
//! While the newest changes of the replica reach back to what was sent last, every change is sent, in
//! the order of its revision; the changes of one change set are one batch. Where they do not (the first
//! values, a load, a new epoch, a reader that is further behind, a collection without revisions), the
//! difference between what was sent and what is held is sent: of each key the newest value. Which of both
//! holds is the rule of the feed ([`contract::feed::check`]); nothing here orders changes.
//!
//! A reader that waits keeps no view, and of its collection only the documents that were replaced since
//! its last batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use contract::{
    CollectionName, Crc, Document, DocumentId, Epoch, EventData, Operation, Revision, feed,
    status::ReplicaState,
};
use replica::{ChangeBuffer, RawCollection, Replica, View};
use tokio::sync::watch;

use crate::message::Item;

/// A batch ends with the first value that reaches this size, in bytes. A change set may be larger, up to
/// [`MAX_SET_BYTES`].
const BATCH_BYTES: usize = 256 << 10;
/// Most values of a batch that is no change set.
const BATCH_ITEMS: usize = 1_000;
/// A change set beyond this size is sent in several batches: clients take no larger message.
const MAX_SET_BYTES: usize = 3 << 20;
/// Changes that are remembered while a revision is missing; beyond them differences are sent.
const MAX_SINCE: usize = 4_096;

/// Which documents of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keys {
    All,
    These(BTreeSet<DocumentId>),
}

impl Keys {
    fn has(&self, id: &DocumentId) -> bool {
        match self {
            Self::All => true,
            Self::These(keys) => keys.contains(id),
        }
    }
}

/// Values that are sent together, each key once.
pub(crate) type Batch = BTreeMap<DocumentId, Item>;

/// Which value of a document was sent; `None` = its deletion.
type Sent = Option<(Revision, Crc)>;

/// The changes of one subscription.
pub(crate) struct Changes {
    replica: Replica,
    changed: watch::Receiver<()>,
    name: CollectionName,
    keys: Keys,
    /// What was sent: the documents of this state,
    base: Option<RawCollection>,
    /// and these instead of theirs.
    since: BTreeMap<DocumentId, Sent>,
    /// What was sent is everything up to here, and nothing beyond; `None` when it is no such state.
    position: Option<Position>,
    /// What is being sent.
    sending: Option<Sending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    epoch: Epoch,
    /// Of the whole replica: within one, watermarks do not go back.
    generation: u64,
    revision: Revision,
}

/// A state of the collection on its way to the reader.
struct Sending {
    held: RawCollection,
    /// Where the reader is once it has everything up to the watermark.
    position: Option<Position>,
    epoch: Option<Epoch>,
    state: ReplicaState,
    step: Step,
}

enum Step {
    /// Every change after a revision.
    Changes(ChangeBuffer, Revision),
    /// The newest value of every document after this one.
    AllAfter(Option<DocumentId>),
    /// The newest value of each of these.
    Each(std::vec::IntoIter<DocumentId>),
}

impl Changes {
    /// Those of the keys, beginning with the values that are held now.
    pub(crate) fn new(replica: Replica, name: CollectionName, keys: Keys) -> Self {
        Self {
            changed: replica.view_changed(),
            replica,
            name,
            keys,
            base: None,
            since: BTreeMap::new(),
            position: None,
            sending: None,
        }
    }

    /// Waits until there may be a batch; `None` when the replica has ended.
    pub(crate) async fn ready(&mut self) -> Option<()> {
        while self.sending.is_none() {
            // Before the view is read: a change after that wakes the wait below.
            self.changed.mark_unchanged();
            let view = self.replica.view();
            self.sending = self.begin(&view);
            // A view holds the documents of all collections: none is kept while the reader waits.
            drop(view);
            if self.sending.is_none() {
                self.changed.changed().await.ok()?;
            }
        }
        Some(())
    }

    /// The next batch; `None` when there is none at the moment.
    pub(crate) fn batch(&mut self) -> Option<Batch> {
        let sending = self.sending.take()?;
        self.send(sending)
    }

    /// What is to be sent of a view; `None` when the reader has it already.
    fn begin(&mut self, view: &Arc<View>) -> Option<Sending> {
        if !view.loaded_of(&self.name) {
            return None;
        }
        let held = view.root().collection(&self.name)?;
        let step = match self.continues(view) {
            Some(after) if after == held.watermark() => return None,
            Some(after) => Step::Changes(view.changes(&self.name)?.clone(), after),
            None => match (&self.base, &self.keys) {
                (None, Keys::All) => Step::AllAfter(None),
                (None, Keys::These(keys)) => {
                    let existing = keys.iter().filter(|key| held.get(key).is_some());
                    Step::Each(existing.cloned().collect::<Vec<_>>().into_iter())
                }
                (Some(base), _) => {
                    let ids = self.differing(base, held);
                    if ids.is_empty() {
                        self.note_sent(held.clone(), position_of(view, held));
                        return None;
                    }
                    Step::Each(ids.into_iter())
                }
            },
        };
        Some(Sending {
            held: held.clone(),
            position: position_of(view, held),
            epoch: view.root().epoch(),
            state: view.state_of(&self.name, Instant::now()),
            step,
        })
    }

    /// The revision after which every change is there.
    fn continues(&self, view: &View) -> Option<Revision> {
        let Position {
            epoch,
            generation,
            revision,
        } = self.position?;
        let head = view.head(&self.name)?;
        let is_same = generation == view.root().generation();
        (is_same && feed::check(&head, revision, Some(epoch)).is_ok()).then_some(revision)
    }

    /// The keys of which something else was sent than is held.
    fn differing(&self, base: &RawCollection, held: &RawCollection) -> Vec<DocumentId> {
        let since_base = held.changes_since(base);
        let changed = since_base
            .iter()
            .filter_map(|(before, now)| now.or(*before))
            .map(Document::id)
            .filter(|id| self.keys.has(id));
        let ids: BTreeSet<_> = changed.chain(self.since.keys()).collect();
        let sent = |id: &DocumentId| match self.since.get(id) {
            Some(sent) => *sent,
            None => base.get(id).map(version_of),
        };
        ids.into_iter()
            .filter(|id| sent(id) != held.get(id).map(version_of))
            .cloned()
            .collect()
    }

    /// The next batch; at the end of what is being sent, `None`.
    fn send(&mut self, mut sending: Sending) -> Option<Batch> {
        let batch = match &mut sending.step {
            Step::Changes(..) => self.changes(&mut sending),
            Step::AllAfter(_) | Step::Each(_) => values(&mut sending),
        };
        if batch.is_empty() {
            self.sent(sending);
            return None;
        }
        self.sending = Some(sending);
        Some(batch)
    }

    /// The next change, or the next change set.
    fn changes(&mut self, sending: &mut Sending) -> Batch {
        let Step::Changes(buffer, after) = &mut sending.step else {
            return Batch::new();
        };
        let mut batch = Batch::new();
        let mut bytes = 0;
        let mut set = None;
        for event in buffer.after(*after) {
            let of_set = event.change_set.as_ref().map(|set| set.id.as_str());
            if !batch.is_empty() {
                let continues = set.is_some() && set.as_deref() == of_set;
                let size = bytes + value_bytes(&event);
                if !continues || size > MAX_SET_BYTES || batch.contains_key(&event.id) {
                    break;
                }
            }
            *after = event.revision.unwrap_or(*after);
            if self.keys.has(&event.id) {
                set = of_set.map(str::to_owned);
                bytes += value_bytes(&event);
                let (sent, item) = item_of_event(&event, sending.epoch, sending.state);
                self.since.insert(event.id.clone(), sent);
                batch.insert(event.id, item);
            }
        }
        batch
    }

    /// Remembers that all of it was sent.
    fn sent(&mut self, sending: Sending) {
        let Sending {
            held,
            position,
            step,
            ..
        } = sending;
        let is_each_change = matches!(step, Step::Changes(..));
        if is_each_change && !is_whole(&held) && self.since.len() <= MAX_SINCE {
            // Documents beyond the missing revision were not sent: the base stays what it is.
            self.position = position;
        } else if is_each_change && !is_whole(&held) {
            self.position = None;
        } else {
            self.note_sent(held, position);
        }
    }

    /// Remembers that the reader has all documents of a state.
    fn note_sent(&mut self, held: RawCollection, position: Option<Position>) {
        self.position = position.filter(|_position| is_whole(&held));
        self.base = Some(held);
        self.since.clear();
    }
}

/// Whether it is exactly the state at its watermark: nothing of it lies beyond a missing revision.
fn is_whole(held: &RawCollection) -> bool {
    held.versioned() && held.ranges_beyond() == 0
}

/// The position of a reader that has everything up to the watermark.
fn position_of(view: &View, held: &RawCollection) -> Option<Position> {
    Some(Position {
        epoch: view.root().epoch().filter(|_epoch| held.versioned())?,
        generation: view.root().generation(),
        revision: held.watermark(),
    })
}

fn version_of(document: &Document) -> (Revision, Crc) {
    (document.revision(), document.crc())
}

fn value_bytes(event: &EventData) -> usize {
    let value = event.config_data.as_ref();
    value.map_or(0, |value| value.as_str().len())
}

/// The next newest values.
fn values(sending: &mut Sending) -> Batch {
    let Sending {
        held,
        epoch,
        state,
        step,
        ..
    } = sending;
    let mut batch = Batch::new();
    let mut bytes = 0;
    // Whether it has room: a document alone may be longer than a batch.
    let mut add = |id: &DocumentId, document: Option<&Document>| {
        let item = match document {
            Some(document) => item(document, *epoch, *state),
            // When exactly it was deleted is not known any more, and not before what was sent of it.
            None => deletion(held.known(), *epoch, *state),
        };
        let is_full = bytes + item.value.len() > BATCH_BYTES || batch.len() >= BATCH_ITEMS;
        if is_full && !batch.is_empty() {
            return false;
        }
        bytes += item.value.len();
        batch.insert(id.clone(), item);
        true
    };
    match step {
        Step::Changes(..) => {}
        Step::AllAfter(after) => {
            let from = after.clone();
            for document in held.documents_after(from.as_ref()) {
                if !add(document.id(), Some(document)) {
                    break;
                }
                *after = Some(document.id().clone());
            }
        }
        Step::Each(ids) => {
            while let Some(id) = ids.as_slice().first() {
                if !add(id, held.get(id)) {
                    break;
                }
                ids.next();
            }
        }
    }
    batch
}

fn item_of_event(event: &EventData, epoch: Option<Epoch>, state: ReplicaState) -> (Sent, Item) {
    let revision = event.revision.unwrap_or_default();
    match (&event.op, &event.config_data) {
        (Operation::Create | Operation::Update, Some(value)) => {
            let crc = event.crc.unwrap_or_else(|| value.crc());
            let item = described(value.as_str().to_owned(), revision, Some(crc), epoch, state);
            (Some((revision, crc)), item)
        }
        // The buffer holds no other change without a value.
        _ => (None, deletion(revision, epoch, state)),
    }
}

/// The value of a document: the text that the HTTP API gives, secrets sealed.
pub(crate) fn item(document: &Document, epoch: Option<Epoch>, state: ReplicaState) -> Item {
    let text = String::from_utf8_lossy(document.config_data()).into_owned();
    let crc = Some(document.crc());
    described(text, document.revision(), crc, epoch, state)
}

fn deletion(revision: Revision, epoch: Option<Epoch>, state: ReplicaState) -> Item {
    let mut item = described(String::new(), revision, None, epoch, state);
    item.metadata
        .insert("deleted".to_owned(), "true".to_owned());
    item
}

fn described(
    value: String,
    revision: Revision,
    crc: Option<Crc>,
    epoch: Option<Epoch>,
    state: ReplicaState,
) -> Item {
    let crc = crc.map(|crc| ("crc", crc.to_string()));
    let epoch = epoch.map(|epoch| ("epoch", epoch.to_string()));
    let state = ("state", state.as_str().to_owned());
    let metadata = crc.into_iter().chain(epoch).chain([state]);
    Item {
        value,
        version: revision.to_string(),
        metadata: metadata
            .map(|(name, text)| (name.to_owned(), text))
            .collect(),
    }
}
