//! Counts the replicas that show a change, and records when the last one did.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use contract::{CollectionName, DocumentId, Revision};
use replica::Replica;
use tokio::sync::watch;

/// The awaited revision of one document.
#[derive(Debug)]
pub(super) struct RevisionCounter {
    collection: CollectionName,
    id: DocumentId,
    /// The revision, and the number of replicas that do not show it yet.
    awaited: Mutex<(Revision, usize)>,
    last: watch::Sender<Option<Instant>>,
}

impl RevisionCounter {
    /// Creates a counter of one document.
    pub(super) fn new(collection: &str, id: &str) -> anyhow::Result<Self> {
        let collection = collection.parse()?;
        let id = id.parse()?;
        Ok(Self {
            collection,
            id,
            awaited: Mutex::default(),
            last: watch::Sender::new(None),
        })
    }

    /// Starts to wait until `replicas` replicas show a revision. The receiver gets the time of the
    /// last one.
    pub(super) fn expect(
        &self,
        revision: Revision,
        replicas: usize,
    ) -> watch::Receiver<Option<Instant>> {
        let mut awaited = self.awaited();
        *awaited = (revision, replicas);
        self.last.send_replace(None);
        self.last.subscribe()
    }

    /// Follows a replica indefinitely.
    pub(super) async fn follow(&self, replica: &Replica) -> anyhow::Result<()> {
        let mut moved = replica.feed_changed();
        let mut counted = 0;
        loop {
            let view = replica.view();
            let held = view
                .root()
                .get(&self.collection, &self.id)
                .map_or(0, contract::Document::revision);
            if held > counted {
                counted = held;
                self.shows(held);
            }
            moved.changed().await?;
        }
    }

    /// Counts a replica that shows a new revision.
    fn shows(&self, revision: Revision) {
        let mut awaited = self.awaited();
        // There is one write at a time: no revision is newer than the awaited one.
        if revision == awaited.0 && awaited.1 > 0 {
            awaited.1 -= 1;
            if awaited.1 == 0 {
                self.last.send_replace(Some(Instant::now()));
            }
        }
    }

    fn awaited(&self) -> MutexGuard<'_, (Revision, usize)> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
