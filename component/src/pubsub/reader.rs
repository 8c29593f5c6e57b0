//! What a subscriber of one topic hears next: every document of the collection as it is, then every
//! change in the order of revisions.
//!
//! It reads pinned views of the replica and never goes back. Where the replica no longer has all changes
//! after the position (it was loaded again, or the subscriber is more than 1,024 changes behind), the
//! documents that changed since then stand for their changes, and what is gone is named. So every
//! subscriber ends with the state of the replica, whatever it missed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use client::retry::is_transient;
use contract::{CollectionName, DocumentId, Operation, Revision};
use replica::{Replica, ReplicaState, View};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    message::Event,
    positions::{Position, SavedPosition},
};
use crate::publisher::Publisher;

/// The documents that subscribers of each topic know, over their subscriptions: one that comes again
/// is told what is gone meanwhile.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownDocuments(Arc<Mutex<BTreeMap<CollectionName, BTreeSet<DocumentId>>>>);

impl KnownDocuments {
    fn of(&self, collection: &CollectionName) -> BTreeSet<DocumentId> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(collection).cloned().unwrap_or_default()
    }

    fn has(&self, collection: &CollectionName) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains_key(collection)
    }

    fn keep(&self, collection: &CollectionName, documents: BTreeSet<DocumentId>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(collection.clone(), documents);
    }
}

/// Reads one topic.
#[derive(Debug)]
pub(crate) struct TopicReader {
    replica: Replica,
    publisher: Arc<Publisher>,
    collection: CollectionName,
    moved: watch::Receiver<u64>,
    states: watch::Receiver<ReplicaState>,
    /// What the subscriber was given completely; `None` at its beginning.
    position: Option<Position>,
    /// Which load the position is of: a load may correct documents before it.
    generation: Option<u64>,
    /// What it is being given.
    batch: Option<Batch>,
    /// Where it was before the program started, until what was deleted since then is known.
    resume: Resume,
    /// The position on disk.
    saved: SavedPosition,
    /// The documents that it knows.
    known: BTreeSet<DocumentId>,
    /// Where they are kept for its next subscription.
    shared: KnownDocuments,
}

/// A part of one view.
#[derive(Debug)]
struct Batch {
    view: Arc<View>,
    /// The position after it.
    end: Position,
    rest: Rest,
}

#[derive(Debug, Clone, Copy)]
enum Resume {
    /// The file was not read yet.
    Unread,
    /// It was there.
    From(Position),
    /// Nothing is to be done.
    Done,
}

#[derive(Debug)]
enum Rest {
    /// The changes after this revision.
    Changes { after: Revision },
    /// What is gone, then documents by revision.
    State {
        gone: VecDeque<DocumentId>,
        documents: VecDeque<DocumentId>,
    },
}

impl TopicReader {
    /// A reader of the topic of a collection, at its beginning.
    pub(crate) fn new(
        replica: Replica,
        publisher: Arc<Publisher>,
        collection: CollectionName,
        shared: &KnownDocuments,
    ) -> Self {
        // What this process knows is more than what it saved.
        let resume = if shared.has(&collection) {
            Resume::Done
        } else {
            Resume::Unread
        };
        Self {
            resume,
            saved: SavedPosition::new(replica.config().snapshot_dir.as_ref(), &collection),
            publisher,
            moved: replica.feed_changed(),
            states: replica.states(),
            known: shared.of(&collection),
            shared: shared.clone(),
            replica,
            collection,
            position: None,
            generation: None,
            batch: None,
        }
    }

    /// The next event, as soon as there is one. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.next_of_batch() {
                return event;
            }
            // Before the view is taken: a change in between is noticed once more, and none is missed.
            self.moved.mark_unchanged();
            self.states.mark_unchanged();
            self.resume().await;
            self.batch = self.batch_of(self.replica.view());
            if self.batch.is_none() {
                // The position of before is needed until what was deleted since then is known.
                let due = match self.resume {
                    Resume::Done => self.saved.due(self.position),
                    Resume::Unread | Resume::From(_) => None,
                };
                tokio::select! {
                    () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                        if let Some(position) = self.position {
                            self.saved.save(position).await;
                        }
                    }
                    Ok(()) = self.moved.changed() => {}
                    // What was on disk is held back for a moment, and then shown without a change.
                    Ok(()) = self.states.changed() => {}
                    // The replica is gone, and the process ends.
                    else => std::future::pending::<()>().await,
                }
            }
        }
    }

    /// Notes that the subscriber has taken an event.
    pub(crate) fn taken(&mut self, event: &Event) {
        match event.data.op {
            Operation::Delete => self.known.remove(&event.data.id),
            Operation::Create | Operation::Update => self.known.insert(event.data.id.clone()),
        };
    }

    /// Learns what was deleted since the program ended before, so that it is named with the documents.
    /// Where no publisher answers, the documents come first, and the next batch tries again.
    async fn resume(&mut self) {
        if let Resume::Unread = self.resume {
            let saved = self.saved.load().await;
            self.resume = saved.map_or(Resume::Done, Resume::From);
        }
        let Resume::From(Position { epoch, revision }) = self.resume else {
            return;
        };
        let collection = &self.collection;
        let deleted = self.publisher.deleted_since(collection, epoch, revision);
        match deleted.await {
            Ok(deleted) => {
                self.known.extend(deleted);
                // What is gone is named before the documents.
                self.position = None;
                self.resume = Resume::Done;
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                self.resume = Resume::Done;
                tracing::warn!(
                    %collection, revision,
                    "what was deleted in {collection} after revision {revision} is not known, so subscribers are not told: {error}"
                );
            }
        }
    }

    fn next_of_batch(&mut self) -> Option<Event> {
        let batch = self.batch.as_mut()?;
        let next = batch.next(&self.collection);
        if next.is_none() {
            self.position = Some(batch.end);
            self.generation = Some(batch.view.root().generation());
            self.batch = None;
        }
        next
    }

    /// What a view has after the position; `None` where that is nothing.
    fn batch_of(&self, view: Arc<View>) -> Option<Batch> {
        if !view.loaded_of(&self.collection) {
            return None;
        }
        let held = view.root().collection(&self.collection)?;
        // Without revisions there is no order, and a subscriber could not be told what it missed.
        let changes = view
            .changes(&self.collection)
            .filter(|_| held.versioned())?;
        let end = Position {
            epoch: view.root().epoch()?,
            revision: held.watermark(),
        };
        let same_load = self.generation == Some(view.root().generation());
        if self.position == Some(end) && same_load {
            return None;
        }
        let same_history = self
            .position
            .filter(|at| at.epoch == end.epoch && same_load);
        // What was proven wrong and loaded again may end before the position.
        let after = same_history.filter(|at| at.revision <= end.revision);
        let rest = match after {
            Some(Position { revision, .. }) if changes.oldest() <= revision + 1 => {
                Rest::Changes { after: revision }
            }
            _ => {
                let after = after.map_or(0, |at| at.revision);
                let gone = self.known.iter().filter(|id| held.get(id).is_none());
                // One beyond the watermark comes as a change, when those before it are there.
                let mut documents: Vec<_> = (held.documents())
                    .filter(|document| (after + 1..=end.revision).contains(&document.revision()))
                    .map(|document| (document.revision(), document.id().clone()))
                    .collect();
                documents.sort_unstable();
                Rest::State {
                    gone: gone.cloned().collect(),
                    documents: documents.into_iter().map(|(_revision, id)| id).collect(),
                }
            }
        };
        Some(Batch { view, end, rest })
    }
}

impl Drop for TopicReader {
    fn drop(&mut self) {
        // Else the next subscription starts from the position on disk, as this one did.
        if let Resume::Done = self.resume {
            (self.shared).keep(&self.collection, std::mem::take(&mut self.known));
        }
    }
}

impl Batch {
    fn next(&mut self, collection: &CollectionName) -> Option<Event> {
        match &mut self.rest {
            Rest::Changes { after } => {
                let changes = self.view.changes(collection)?;
                let change = changes.after(*after).next()?;
                let (epoch, revision) = (change.epoch?, change.revision?);
                *after = revision;
                Some(Event::change(epoch, revision, change))
            }
            Rest::State { gone, documents } => {
                if let Some(id) = gone.pop_front() {
                    let at = (self.end.epoch, self.end.revision);
                    return Some(Event::gone(collection, at, &id));
                }
                let held = self.view.root().collection(collection)?;
                while let Some(id) = documents.pop_front() {
                    let Some(document) = held.get(&id) else {
                        continue;
                    };
                    match Event::state(collection, self.end.epoch, document) {
                        Ok(event) => return Some(event),
                        Err(error) => tracing::error!(
                            %collection, %id,
                            "the value of {id} in {collection} is damaged in memory, and is not sent: {error}"
                        ),
                    }
                }
                None
            }
        }
    }
}
