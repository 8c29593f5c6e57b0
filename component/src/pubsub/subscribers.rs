//! What the subscribers of each topic know, and up to which revision, over their subscriptions.
//!
//! A sidecar does not say which service a subscription is for. So one that begins may be of any service
//! whose own has ended, and starts with what any of them knows: naming a deletion twice is harmless, and
//! naming it never is not. When as many are open as ever were at once, every service is back; one that is
//! away for a day is not expected any more. No event is read or sent here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contract::{CollectionName, DocumentId};
use tokio::time::Instant;

use super::positions::{Position, PositionFile, Saved};

/// Time between two saves of one topic.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// A service that did not subscribe again for this long was removed for good.
const RETURNS_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Most documents that are remembered of ended subscriptions of a topic.
const MAX_KNOWN: usize = 1 << 20;

/// The subscribers of all topics. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Subscribers {
    /// Where positions are saved.
    folder: Option<PathBuf>,
    topics: Arc<Mutex<BTreeMap<CollectionName, Arc<Mutex<Topic>>>>>,
}

/// One subscription.
#[derive(Debug)]
pub(super) struct Subscriber {
    topic: Arc<Mutex<Topic>>,
    file: Option<PositionFile>,
    number: u64,
}

/// The subscribers of one topic.
#[derive(Debug)]
struct Topic {
    file: Option<PositionFile>,
    /// What each open subscription was given completely, by its number; `None` at its beginning.
    open: BTreeMap<u64, Option<Position>>,
    /// The number of the next one.
    next: u64,
    /// The most that were open at once.
    most: usize,
    /// Until when a service that left is expected to come back.
    expected_until: Instant,
    /// What services know whose subscription ended.
    known: BTreeSet<DocumentId>,
    /// The lowest position of those services.
    ended: Option<Position>,
    /// The position that was on disk when the program started; `None` until the file was read.
    at_start: Option<Option<Position>>,
    saved: Option<Saved>,
    /// Whether the last save failed.
    failing: bool,
    /// No save before.
    next_save: Instant,
}

impl Subscribers {
    /// Positions are saved in the folder.
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            topics: Arc::default(),
        }
    }

    /// A subscription begins. Returns it with the documents that its service may know.
    pub(super) fn begin(&self, topic: &CollectionName) -> (Subscriber, BTreeSet<DocumentId>) {
        let mut topics = lock(&self.topics);
        let shared = topics.entry(topic.clone()).or_insert_with(|| {
            let folder = self.folder.as_ref();
            let file = folder.map(|folder| PositionFile::new(folder, topic));
            Arc::new(Mutex::new(Topic::new(file)))
        });
        let mut topic = lock(shared);
        let number = topic.next;
        topic.next += 1;
        topic.open.insert(number, None);
        topic.most = topic.most.max(topic.open.len());
        let subscriber = Subscriber {
            topic: Arc::clone(shared),
            file: topic.file.clone(),
            number,
        };
        (subscriber, topic.known.clone())
    }
}

impl Subscriber {
    fn topic(&self) -> MutexGuard<'_, Topic> {
        lock(&self.topic)
    }

    /// The position after which deleted documents are unknown, because the program was not there.
    pub(super) async fn missed_since(&self) -> Option<Position> {
        if let Some(read) = self.topic().at_start {
            return read;
        }
        let saved = match &self.file {
            Some(file) => file.load().await,
            None => None,
        };
        let mut topic = self.topic();
        // Another subscription may have read it meanwhile.
        let read = saved.map(|saved| saved.position);
        let subscribers = saved.map_or(0, |saved| saved.subscribers);
        if topic.at_start.is_none() {
            topic.at_start = Some(read);
            topic.most = topic.most.max(subscribers);
            topic.saved = saved;
        }
        topic.at_start.flatten()
    }

    /// What was deleted since [`Subscriber::missed_since`] can never be found out.
    pub(super) fn missed_forever(&self) {
        let mut topic = self.topic();
        topic.at_start = Some(None);
        topic.most = topic.open.len();
    }

    /// It was given every change up to a position, and every deletion that it may have missed.
    pub(super) fn reached(&self, position: Position) {
        self.topic().reached(self.number, position);
    }

    /// When the position of the topic is to be saved; `None` when it is.
    pub(super) fn save_due(&self) -> Option<Instant> {
        let topic = self.topic();
        let lowest = topic.lowest().filter(|_| topic.file.is_some())?;
        (topic.saved != Some(lowest)).then_some(topic.next_save)
    }

    /// Saves the position of the topic. Dropping the future is harmless.
    pub(super) async fn save(&self) {
        let lowest = {
            let mut topic = self.topic();
            topic.next_save = Instant::now() + SAVE_EVERY;
            topic.lowest()
        };
        let (Some(file), Some(lowest)) = (&self.file, lowest) else {
            return;
        };
        let saved = file.save(lowest).await;
        let mut topic = self.topic();
        let failed_before = std::mem::replace(&mut topic.failing, saved.is_err());
        match saved {
            Ok(()) => topic.saved = Some(lowest),
            // One line for each outage, not for each second of it.
            Err(error) if !failed_before => tracing::warn!(
                "the position in {} cannot be saved, and is tried every second: {error}",
                file.path().display()
            ),
            Err(_again) => {}
        }
    }

    /// The subscription ends. `known`: what its service may know.
    pub(super) fn end(&self, known: BTreeSet<DocumentId>) {
        self.topic().end(self.number, known);
    }
}

impl Topic {
    fn new(file: Option<PositionFile>) -> Self {
        Self {
            file,
            open: BTreeMap::new(),
            next: 0,
            most: 0,
            expected_until: Instant::now() + RETURNS_WITHIN,
            known: BTreeSet::new(),
            ended: None,
            at_start: None,
            saved: None,
            failing: false,
            next_save: Instant::now(),
        }
    }

    fn reached(&mut self, number: u64, position: Position) {
        self.open.insert(number, Some(position));
        if Instant::now() >= self.expected_until {
            self.most = self.open.len();
        }
        if self.open.len() >= self.most && self.open.values().all(Option::is_some) {
            self.known.clear();
            self.ended = None;
            self.at_start = Some(None);
        }
    }

    fn end(&mut self, number: u64, mut known: BTreeSet<DocumentId>) {
        let position = self.open.remove(&number).flatten();
        self.expected_until = Instant::now() + RETURNS_WITHIN;
        self.ended = self.ended.into_iter().chain(position).min();
        if self.known.len() + known.len() > MAX_KNOWN {
            tracing::warn!(
                "services that left knew more than {MAX_KNOWN} documents of one topic: those that lived on \
                 without their sidecar may not be notified of every deletion, and load their documents again"
            );
            self.known.clear();
        }
        self.known.append(&mut known);
    }

    /// What every service has, as far as the file is to say.
    fn lowest(&self) -> Option<Saved> {
        let open: Option<Vec<_>> = self.open.values().copied().collect();
        let others = self.ended.into_iter().chain(self.at_start.flatten());
        let position = open?.into_iter().chain(others).min()?;
        Some(Saved {
            position,
            subscribers: self.most,
        })
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<const N: usize>(ids: [&str; N]) -> BTreeSet<DocumentId> {
        ids.map(|id| id.parse().expect("an id")).into()
    }

    fn at(revision: u64) -> Position {
        Position {
            epoch: "9f86d081-1".parse().expect("an epoch"),
            revision,
        }
    }

    fn saved(subscriber: &Subscriber) -> Option<(u64, usize)> {
        let lowest = subscriber.topic().lowest()?;
        Some((lowest.position.revision, lowest.subscribers))
    }

    #[tokio::test]
    async fn one_service_gets_what_it_knew_and_moves_the_position_alone() {
        let subscribers = Subscribers::new(None);
        let topic = "A".parse().expect("a name");
        let (first, known) = subscribers.begin(&topic);
        assert_eq!((first.missed_since().await, known), (None, ids([])));
        assert_eq!(saved(&first), None, "it was given nothing");
        first.reached(at(5));
        first.end(ids(["a", "b"]));
        let (second, known) = subscribers.begin(&topic);
        assert_eq!(known, ids(["a", "b"]));
        assert_eq!(saved(&second), None, "it was not given what it missed");
        second.reached(at(9));
        assert_eq!(saved(&second), Some((9, 1)));
        second.end(ids(["c"]));
        assert_eq!(subscribers.begin(&topic).1, ids(["c"]));
    }

    #[test]
    fn of_two_services_each_may_have_missed_what_the_other_was_given() {
        let subscribers = Subscribers::new(None);
        let topic = "A".parse().expect("a name");
        let (first, _) = subscribers.begin(&topic);
        let (second, _) = subscribers.begin(&topic);
        first.reached(at(5));
        second.reached(at(5));
        // The first one goes with "b", which is deleted while it is away.
        first.end(ids(["a", "b"]));
        second.reached(at(9));
        assert_eq!(saved(&second), Some((5, 2)), "the first one is at 5");
        second.end(ids(["a"]));
        let (again, known) = subscribers.begin(&topic);
        assert_eq!(known, ids(["a", "b"]));
        again.reached(at(12));
        assert_eq!(saved(&again), Some((5, 2)), "one of them is still away");
        let (other, known) = subscribers.begin(&topic);
        assert_eq!(known, ids(["a", "b"]), "and may be the one that knows b");
        other.reached(at(12));
        assert_eq!(saved(&other), Some((12, 2)), "both are back");
        other.end(ids(["d"]));
        assert_eq!(subscribers.begin(&topic).1, ids(["d"]));
    }

    #[tokio::test]
    async fn a_service_that_does_not_come_back_is_no_longer_waited_for() {
        let subscribers = Subscribers::new(None);
        let topic = "A".parse().expect("a name");
        let (first, _) = subscribers.begin(&topic);
        let (second, _) = subscribers.begin(&topic);
        first.missed_since().await;
        first.reached(at(5));
        second.reached(at(5));
        first.end(ids(["a"]));
        second.reached(at(9));
        assert_eq!(saved(&second), Some((5, 2)));
        second.topic().expected_until = Instant::now();
        second.reached(at(12));
        assert_eq!(saved(&second), Some((12, 1)));
    }

    #[tokio::test]
    async fn a_position_that_cannot_be_saved_is_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("full");
        std::fs::write(&path, "no folder").expect("a file");
        let subscribers = Subscribers::new(Some(path.clone()));
        let (subscriber, _) = subscribers.begin(&"A".parse().expect("a name"));
        subscriber.missed_since().await;
        subscriber.reached(at(5));
        subscriber.save().await;
        assert!(subscriber.topic().failing && subscriber.save_due().is_some());
        std::fs::remove_file(&path).expect("removed");
        subscriber.save().await;
        assert!(!subscriber.topic().failing && subscriber.save_due().is_none());
    }

    #[tokio::test]
    async fn a_restart_remembers_how_many_services_may_have_missed_something() {
        let folder = tempfile::tempdir().expect("a folder");
        let topic = "A".parse().expect("a name");
        let subscribers = || Subscribers::new(Some(folder.path().to_owned()));
        let before = subscribers();
        let ((first, _), (second, _)) = (before.begin(&topic), before.begin(&topic));
        for subscriber in [&first, &second] {
            assert_eq!(subscriber.missed_since().await, None);
        }
        first.reached(at(5));
        second.reached(at(7));
        assert!(first.save_due().is_some());
        first.save().await;
        assert_eq!(second.save_due(), None);

        let after = subscribers();
        let (first, _) = after.begin(&topic);
        assert_eq!(first.missed_since().await, Some(at(5)));
        first.reached(at(9));
        assert_eq!(first.save_due(), None, "the other one is not back");
        let (second, _) = after.begin(&topic);
        assert_eq!(second.missed_since().await, Some(at(5)));
        second.reached(at(9));
        assert_eq!(saved(&second), Some((9, 2)));

        // A log that is shorter than the time since then.
        let (first, _) = subscribers().begin(&topic);
        first.missed_since().await;
        first.missed_forever();
        first.reached(at(20));
        assert_eq!(saved(&first), Some((20, 1)));
    }
}
