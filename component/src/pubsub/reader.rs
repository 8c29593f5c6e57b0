//! What a subscriber of one topic receives next: every document of the collection as it is, then every
//! change in the order of revisions.
//!
//! It reads pinned views of the replica and never goes back. Where the replica no longer has all changes
//! after the position (it was loaded again, or the subscriber is more than 1,024 changes behind), the
//! documents that changed since then stand for their changes, and what is gone is named. So every
//! subscriber ends with the state of the replica, whatever it missed.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use client::{ClientError, RetryPolicy, retry::is_transient};
use contract::{CollectionName, DocumentId, Operation, Revision};
use futures_util::{FutureExt, future::BoxFuture};
use replica::{Replica, ReplicaState, View};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    message::Event,
    positions::Position,
    subscribers::{Subscriber, Subscribers},
};
use crate::publisher::Publisher;

/// How long the documents wait for the names of those that were deleted while the program was away.
const DELETIONS_FIRST: Duration = Duration::from_secs(1);

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
    /// What was deleted before the program started.
    missed: Missed,
    /// Whether the next batch names what is gone, though no change asks for it.
    names_gone: bool,
    /// The documents that its service may know: given to it, or to one that it may be.
    known: BTreeSet<DocumentId>,
    subscriber: Subscriber,
}

/// A part of one view.
#[derive(Debug)]
struct Batch {
    view: Arc<View>,
    /// The position after it.
    end: Position,
    rest: Rest,
}

/// What was deleted while the program was away.
enum Missed {
    /// Where the subscribers were is not read yet.
    Unread,
    /// The publishers are asked, until one answers.
    Asked(BoxFuture<'static, Result<BTreeSet<DocumentId>, ClientError>>),
    /// It is among the documents that are known, as far as it can be found out.
    Known,
}

impl fmt::Debug for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unread => "Unread",
            Self::Asked(_) => "Asked",
            Self::Known => "Known",
        })
    }
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
        subscribers: &Subscribers,
    ) -> Self {
        let (subscriber, known) = subscribers.begin(&collection);
        Self {
            publisher,
            moved: replica.feed_changed(),
            states: replica.states(),
            replica,
            collection,
            position: None,
            generation: None,
            batch: None,
            missed: Missed::Unread,
            names_gone: false,
            known,
            subscriber,
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
            if let Missed::Unread = self.missed {
                self.ask_what_was_missed().await;
            }
            self.batch = self.batch_of(self.replica.view());
            if let Some(batch) = &self.batch {
                self.names_gone = false;
                // What is deleted after its first batch began is found by the log.
                if self.position.is_none() && self.known.is_empty() && self.missed.is_known() {
                    self.subscriber.reached(batch.end);
                }
                continue;
            }
            let due = self.subscriber.save_due();
            tokio::select! {
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.subscriber.save().await;
                }
                missed = self.missed.answer() => self.note_missed(missed),
                Ok(()) = self.moved.changed() => {}
                // What was on disk is held back for a moment, and then shown without a change.
                Ok(()) = self.states.changed() => {}
                // Where the replica is gone nothing comes any more, and the process ends.
            }
        }
    }

    /// Notes that the subscriber has taken an event.
    pub(crate) fn taken(&mut self, event: &Event) {
        if event.data.op == Operation::Delete {
            self.known.remove(&event.data.id);
        }
    }

    /// Asks what was deleted since the program ended before. It is named with the documents where a
    /// publisher answers soon, else after them.
    async fn ask_what_was_missed(&mut self) {
        let Some(since) = self.subscriber.missed_since().await else {
            self.missed = Missed::Known;
            return;
        };
        let (publisher, collection) = (Arc::clone(&self.publisher), self.collection.clone());
        let asked = async move {
            let deleted = || publisher.deleted_since(&collection, since.epoch, since.revision);
            RetryPolicy::FOLLOW.run(is_transient, deleted).await
        };
        self.missed = Missed::Asked(asked.boxed());
        if let Ok(missed) = timeout(DELETIONS_FIRST, self.missed.answer()).await {
            self.note_missed(missed);
        }
    }

    fn note_missed(&mut self, missed: Result<BTreeSet<DocumentId>, ClientError>) {
        self.missed = Missed::Known;
        match missed {
            Ok(deleted) => {
                self.known.extend(deleted);
                self.names_gone = true;
            }
            Err(error) => {
                let collection = &self.collection;
                self.subscriber.missed_forever();
                if let Some(position) = self.position {
                    self.subscriber.reached(position);
                }
                tracing::warn!(
                    %collection,
                    "what was deleted in {collection} while the component was away cannot be found out, so \
                     subscribers are not notified of it: {error}"
                );
            }
        }
    }

    fn next_of_batch(&mut self) -> Option<Event> {
        let batch = self.batch.as_mut()?;
        let next = batch.next(&self.collection);
        match &next {
            // Its service may have it although the answer is lost.
            Some(event) if event.data.op != Operation::Delete => {
                self.known.insert(event.data.id.clone());
            }
            Some(_deletion) => {}
            None => {
                self.position = Some(batch.end);
                self.generation = Some(batch.view.root().generation());
                // Else the position on disk is needed until the deletions since then are named.
                if self.missed.is_known() && !self.names_gone {
                    self.subscriber.reached(batch.end);
                }
                self.batch = None;
            }
        }
        next
    }

    /// What a view has after the position; `None` where that is nothing.
    fn batch_of(&self, view: Arc<View>) -> Option<Batch> {
        if !view.loaded_of(&self.collection) {
            return None;
        }
        let held = view.root().collection(&self.collection)?;
        // Without revisions there is no order, and what a subscriber missed could not be named.
        let changes = view
            .changes(&self.collection)
            .filter(|_| held.versioned())?;
        let end = Position {
            epoch: view.root().epoch()?,
            revision: held.watermark(),
        };
        let same_load = self.generation == Some(view.root().generation());
        if self.position == Some(end) && same_load && !self.names_gone {
            return None;
        }
        let same_history = self
            .position
            .filter(|at| at.epoch == end.epoch && same_load);
        // What was proven wrong and loaded again may end before the position.
        let after = same_history.filter(|at| at.revision <= end.revision);
        let rest = match after {
            Some(Position { revision, .. })
                if changes.oldest() <= revision + 1 && !self.names_gone =>
            {
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

impl Missed {
    fn is_known(&self) -> bool {
        matches!(self, Self::Known)
    }

    /// The answer of a publisher. Dropping the future loses nothing.
    async fn answer(&mut self) -> Result<BTreeSet<DocumentId>, ClientError> {
        match self {
            Self::Asked(answer) => answer.await,
            Self::Unread | Self::Known => std::future::pending().await,
        }
    }
}

impl Drop for TopicReader {
    fn drop(&mut self) {
        self.subscriber.end(std::mem::take(&mut self.known));
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
