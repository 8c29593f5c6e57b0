//! Events without a revision, as a publisher sends them that follows the source document only
//! (requirement A20 to A23), and the lists that such a publisher is asked for.
//!
//! Where revisions are known, such an event says only that something changed. Where they are not,
//! the rules of the source document hold to the letter, and with them what they cannot promise:
//! order, and that a deleted document stays deleted. Two things are better here: a failure is
//! reported to the broker, and a list that an event has overtaken is read again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use contract::{CanonicalJson, CollectionName, DocumentId, EventData, Operation};
use tokio::{sync::Mutex, time::timeout};

use super::{Stats, apply::FETCH_BUDGET};
use crate::{
    SourceError, cache::Cache, failure_log::LogRate, source::PublisherSource, sync::SyncSignals,
};

/// Time that an event may spend on a complete list.
const LIST_BUDGET: Duration = Duration::from_secs(5);
/// How often a list is read that events keep overtaking. The last one counts, and the next check-in
/// corrects it.
const LIST_ATTEMPTS: usize = 3;

/// Applies events without a revision, and loads complete lists.
#[derive(Debug)]
pub(crate) struct UnversionedIntake {
    /// Where documents are set, removed and replaced.
    pub(crate) cache: Arc<Cache>,
    /// Where values and lists are read.
    pub(crate) source: Arc<PublisherSource>,
    /// Counts each event by what became of it.
    pub(crate) stats: Arc<Stats>,
    /// Wakes the loop when the collection counts revisions after all.
    pub(crate) signals: Arc<SyncSignals>,
    /// When the newest complete list of each collection was requested. The lock is held while a
    /// list is loaded: one at a time.
    pub(crate) listed: Mutex<BTreeMap<CollectionName, Instant>>,
    /// Held while the document of an id-only event is read.
    pub(crate) reading: Mutex<()>,
}

impl UnversionedIntake {
    /// Takes an event without a revision. An expired one is ignored where no revisions are counted.
    ///
    /// # Errors
    /// When the value or the list that the event needs could not be read. The event is worth
    /// sending again then.
    pub(super) async fn take(
        &self,
        data: &EventData,
        expiration: Option<DateTime<Utc>>,
    ) -> Result<(), SourceError> {
        let EventData {
            collection, op, id, ..
        } = data;
        let view = self.cache.view();
        let Some(held) = view.root().collection(collection) else {
            self.stats.count(|events| events.ignored += 1);
            return Ok(());
        };
        // The change cannot be placed among the revisions, but there is one: the heads tell which.
        if held.versioned() {
            tracing::debug!(%collection, %id, "the {op:?} event of {collection}/{id} has no revision: the replica checks in");
            self.stats.count(|events| events.without_revision += 1);
            self.signals.request_check_in();
            return Ok(());
        }
        if self.is_expired(collection, id, expiration) {
            return Ok(());
        }
        match op {
            Operation::Create | Operation::Update => self.update(data).await?,
            Operation::Delete => self.delete(collection, id).await?,
        }
        self.stats.count(|events| events.applied += 1);
        Ok(())
    }

    /// Takes an id-only event: the document is read by its id. Where no publisher has it and it is not
    /// held either, nothing is to be done (requirement D5). One document is read after the other, so
    /// that an older answer never replaces a newer one, whatever the order of the events.
    ///
    /// # Errors
    /// As [`UnversionedIntake::take`].
    pub(super) async fn take_id(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        expiration: Option<DateTime<Utc>>,
    ) -> Result<(), SourceError> {
        if self.is_expired(collection, id, expiration) {
            return Ok(());
        }
        let in_turn = async {
            let _turn = self.reading.lock().await;
            match self.source.document(collection, id).await {
                Ok(config) => {
                    self.stats.count(|events| events.fetched += 1);
                    // If it fails, the collection became versioned meanwhile.
                    self.cache.set_unversioned(collection, id, &config);
                    Ok(true)
                }
                Err(SourceError::Client(error)) if error.status() == Some(404) => {
                    let is_held = self.cache.view().root().get(collection, id).is_some();
                    // A 404 without that word may be of a proxy: the list tells.
                    let is_settled = !is_held
                        || (error.is_no_document()
                            && self.cache.remove_unversioned(collection, id));
                    Ok(is_settled)
                }
                Err(error) => Err(error),
            }
        };
        let is_settled = timeout(FETCH_BUDGET, in_turn)
            .await
            .unwrap_or(Err(SourceError::TooLate(FETCH_BUDGET)))?;
        if !is_settled {
            self.load_list_in_time(collection).await?;
        }
        self.stats.count(|events| events.applied += 1);
        Ok(())
    }

    /// Whether an event came after its expiration. It is counted, and logged.
    fn is_expired(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
        expiration: Option<DateTime<Utc>>,
    ) -> bool {
        let expired = expiration.is_some_and(|until| until <= Utc::now());
        if expired {
            tracing::debug!(%collection, %id, "the event of {collection}/{id} came after its expiration and is ignored");
            self.stats.count(|events| events.expired += 1);
        }
        expired
    }

    /// The value is `configData` if the event includes it, else the answer to `GetById`, else the
    /// one in the answer to `GetAll` (requirement A21).
    ///
    /// # Errors
    /// When neither the document nor the list could be read.
    async fn update(&self, data: &EventData) -> Result<(), SourceError> {
        let EventData { collection, id, .. } = data;
        if let Some(config) = &data.config_data
            // Fails when the collection became versioned meanwhile: then the value is fetched.
            && self.cache.set_unversioned(collection, id, config)
        {
            return Ok(());
        }
        match self.fetch(collection, id).await {
            Ok(config) => {
                self.stats.count(|events| events.fetched += 1);
                // If it fails, the collection became versioned meanwhile: nothing is left to do.
                self.cache.set_unversioned(collection, id, &config);
                Ok(())
            }
            Err(error) => {
                static LINES: LogRate = LogRate::new();
                if let Some(left_out) = LINES.due() {
                    tracing::warn!(%collection, %id, "{collection}/{id} could not be fetched, the list of its collection is read: {error}{left_out}");
                }
                self.load_list_in_time(collection).await
            }
        }
    }

    /// Removes the document. When it is not held, something else may be missing too: the list of
    /// the collection is read.
    async fn delete(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> Result<(), SourceError> {
        if self.cache.remove_unversioned(collection, id) {
            tracing::debug!(%collection, %id, "{collection}/{id} was removed");
            return Ok(());
        }
        // Something is different here than at the publisher.
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(%collection, %id, "{collection}/{id} was deleted but is not held here, the list of its collection is read{left_out}");
        }
        self.load_list_in_time(collection).await
    }

    /// The answer to `GetById`, within [`FETCH_BUDGET`].
    async fn fetch(
        &self,
        collection: &CollectionName,
        id: &DocumentId,
    ) -> Result<CanonicalJson, SourceError> {
        timeout(FETCH_BUDGET, self.source.document(collection, id))
            .await
            .unwrap_or(Err(SourceError::TooLate(FETCH_BUDGET)))
    }

    /// Loads the list within [`LIST_BUDGET`]: the broker waits for the answer to the event.
    async fn load_list_in_time(&self, collection: &CollectionName) -> Result<(), SourceError> {
        timeout(LIST_BUDGET, self.load_list(collection))
            .await
            .unwrap_or(Err(SourceError::TooLate(LIST_BUDGET)))
    }

    /// Replaces an unversioned collection by the publisher's complete list (requirement A20:
    /// `load()`). A caller that waits while another list is loaded takes that list, if it was
    /// requested after the caller came.
    ///
    /// # Errors
    /// When no publisher gave a complete list. What is held stays then.
    pub(crate) async fn load_list(&self, collection: &CollectionName) -> Result<(), SourceError> {
        let called_at = Instant::now();
        let mut listed = self.listed.lock().await;
        // The list in hand is newer than the caller: another request would bring nothing.
        if listed
            .get(collection)
            .is_some_and(|requested_at| *requested_at >= called_at)
        {
            return Ok(());
        }
        for attempt in 1..=LIST_ATTEMPTS {
            let requested_at = Instant::now();
            // Before the request: an event after that may be newer than the list.
            let edits = self.cache.unversioned_edits();
            let documents = self.source.documents(collection).await?;
            // After the last attempt the list counts, whatever events changed meanwhile.
            let expected_edits = (attempt < LIST_ATTEMPTS).then_some(edits);
            if self
                .cache
                .replace_unversioned(collection, documents, expected_edits)
            {
                listed.insert(collection.clone(), requested_at);
                break;
            }
        }
        Ok(())
    }
}
