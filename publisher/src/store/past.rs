//! The past of a collection: what it was at a revision, at a time, or in a named snapshot.
//!
//! A state is read from the newest record of each document at or before its revision. Such a record
//! is in the change log, or it is a base record: retention copies it before it trims the log
//! ([`bases`]). Records never change, so a state is the same whenever it is read. What is no longer
//! kept is refused; a value is never guessed. [`history`] says which changes were made.
//!
//! Nothing here writes a document.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use contract::{
    CanonicalJson, Change, CollectionName, Digest, Document, DocumentId, Epoch, Head, Revision,
    history::{Point, SnapshotName},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::timeout};

use crate::store::{
    Chunk, DocumentCursor, Store,
    document_cursor::Rows,
    integrity::{Damage, DamagedPast, DamagedRecord, is_damage},
};

pub mod bases;
pub(super) mod evidence;
pub mod history;

use bases::Coverage;
use evidence::{Evidence, Proof};
#[cfg(test)]
pub(super) mod tests;

/// States that are read as a whole at the same time, to prove a document of each.
static PROOFS: Semaphore = Semaphore::const_new(2);
/// How long such a reading is waited for.
const PROOF_WAIT: Duration = Duration::from_secs(5);

/// A state of a collection that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastPoint {
    /// The collection.
    pub collection: CollectionName,
    /// The revision of the newest change of the state; 0 = before the first change.
    pub revision: Revision,
    /// Number of documents of the state.
    pub count: u64,
    /// Digest over them.
    pub digest: Digest,
    /// The epoch of `revision`.
    pub epoch: Epoch,
    /// When `revision` was committed, by the clock of its publisher; `None` where no record says it.
    pub time: Option<DateTime<Utc>>,
}

impl PastPoint {
    /// The present state of a collection.
    pub(super) fn of_head(head: &Head) -> Self {
        Self {
            collection: head.collection.clone(),
            revision: head.revision,
            count: head.count,
            digest: head.digest,
            epoch: head.epoch,
            time: None,
        }
    }

    /// The state as a head, with which a list of its documents is compared.
    fn head(&self) -> Head {
        Head {
            revision: self.revision,
            count: self.count,
            digest: self.digest,
            ..Head::empty(self.collection.clone(), self.epoch)
        }
    }
}

impl From<&Change> for PastPoint {
    /// The state after a change.
    fn from(change: &Change) -> Self {
        Self {
            collection: change.collection.clone(),
            revision: change.revision,
            count: change.count,
            digest: change.digest,
            epoch: change.epoch,
            time: Some(change.time),
        }
    }
}

/// Why a state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// It was trimmed.
    #[error(
        "the state of {collection} is not kept; the oldest one that can be read is that of revision \
         {oldest}. AURA_CONFIGURATION_LOG_KEEP_CHANGES and AURA_CONFIGURATION_LOG_KEEP_HOURS say how \
         long states are kept, and a named snapshot keeps its state"
    )]
    NotKept {
        /// The collection.
        collection: CollectionName,
        /// From this revision on every state is kept.
        oldest: Revision,
    },
    /// The collection has no such revision yet.
    #[error("the newest revision of {collection} is {revision}")]
    Ahead {
        /// The collection.
        collection: CollectionName,
        /// Its newest revision.
        revision: Revision,
    },
    /// There is no named snapshot of this name that has the collection.
    #[error("there is no snapshot {0} of the collection")]
    NoSnapshot(SnapshotName),
    /// The store failed, or what it has is damaged.
    #[error(transparent)]
    Store(anyhow::Error),
}

impl From<anyhow::Error> for PastError {
    /// An error of this type that came through the calls of a store stays what it is.
    fn from(error: anyhow::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Store)
    }
}

/// A record, as far as a state needs it: what of it is the same in the change log and in a base
/// record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ValueRecord {
    pub(super) collection: CollectionName,
    pub(super) id: DocumentId,
    pub(super) revision: Revision,
    /// Absent on Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config_data: Option<CanonicalJson>,
}

impl ValueRecord {
    /// The record of a document as it is now.
    pub(super) fn of(collection: &CollectionName, document: &Document) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(document.config_data())?.to_owned();
        Ok(Self {
            collection: collection.clone(),
            id: document.id().clone(),
            revision: document.revision(),
            config_data: Some(CanonicalJson::from_canonical(text)?),
        })
    }

    /// The document after the record; `None` when it was deleted.
    pub(super) fn document(&self) -> Option<Document> {
        let value = self.config_data.as_ref()?;
        Some(Document::new(self.id.clone(), self.revision, value))
    }
}

/// What a collection keeps of its past.
#[derive(Debug, Clone)]
pub(super) struct PastView {
    /// Its head now.
    pub(super) head: Head,
    /// What its base records cover.
    pub(super) coverage: Coverage,
}

impl PastView {
    /// From this revision on every state is kept. After the head where none is.
    pub(super) fn first_kept(&self) -> Revision {
        let trimmed = self.head.oldest.saturating_sub(1);
        if self.coverage.covered < trimmed {
            // Records were removed that have no base records.
            return self.head.revision + 1;
        }
        // Base records may be ahead of the head: until `oldest` is raised, or after a repair lowered it.
        // Of the records between the two some may be gone.
        trimmed
            .max(self.coverage.covered)
            .max(self.coverage.complete)
    }

    /// Whether the state at a revision is kept, whatever is pinned.
    pub(super) fn keeps(&self, revision: Revision) -> bool {
        revision == 0 || (self.first_kept()..=self.head.revision).contains(&revision)
    }

    /// Whether the state at a revision is kept if a named snapshot pins it.
    pub(super) fn keeps_pinned(&self, revision: Revision) -> bool {
        revision <= self.coverage.covered && !self.coverage.lacks(revision)
    }

    pub(super) fn not_kept(&self) -> PastError {
        PastError::NotKept {
            collection: self.head.collection.clone(),
            // The state of now is kept as soon as base records were made of it.
            oldest: self.first_kept().min(self.head.revision),
        }
    }
}

impl Store {
    /// The state of a collection at a point.
    ///
    /// A time means the newest change that was committed not after it. It is found by a binary
    /// search, so where the clocks of publishers differ, and the times of the log go back and forth
    /// around the time that is asked for, it is one of the changes at which they pass it.
    ///
    /// # Errors
    /// `PastError`
    pub async fn resolve(
        &self,
        collection: &CollectionName,
        point: &Point,
    ) -> Result<PastPoint, PastError> {
        match point {
            Point::Revision(revision) => self.resolve_revision(collection, *revision).await,
            Point::Time(time) => self.resolve_time(collection, *time).await,
            Point::Snapshot(name) => self.resolve_snapshot(collection, name).await,
        }
    }

    async fn resolve_revision(
        &self,
        collection: &CollectionName,
        revision: Revision,
    ) -> Result<PastPoint, PastError> {
        let view = self.past_view(collection).await?;
        if revision > view.head.revision {
            return Err(PastError::Ahead {
                collection: collection.clone(),
                revision: view.head.revision,
            });
        }
        if revision == 0 {
            return Ok(before_first(&view.head));
        }
        if view.keeps(revision) {
            return self.point_in_log(&view, revision).await;
        }
        let pins = self.pins(collection).await?;
        let pinned = pins.into_iter().find(|pin| pin.revision == revision);
        pinned
            .filter(|pin| view.keeps_pinned(pin.revision))
            .ok_or_else(|| view.not_kept())
    }

    /// The state at a revision that is kept because of the log.
    async fn point_in_log(
        &self,
        view: &PastView,
        revision: Revision,
    ) -> Result<PastPoint, PastError> {
        let head = &view.head;
        if let Some(change) = self.record(&head.collection, revision).await? {
            return Ok(PastPoint::from(&change));
        }
        // Read again: retention may have removed the record in the meantime.
        let view = self.past_view(&head.collection).await?;
        let point = view.coverage.point(&view.head);
        if point.revision == revision && view.keeps(revision) {
            return Ok(point);
        }
        if view.keeps(revision) {
            // It is kept, so its record is gone or damaged.
            return Err(anyhow::Error::from(DamagedRecord {
                collection: head.collection.clone(),
                revision,
                damage: Damage::Missing,
            })
            .into());
        }
        Err(view.not_kept())
    }

    async fn resolve_time(
        &self,
        collection: &CollectionName,
        time: DateTime<Utc>,
    ) -> Result<PastPoint, PastError> {
        let view = self.past_view(collection).await?;
        let (mut low, mut high) = (view.head.oldest, view.head.revision + 1);
        let mut found = None;
        // Every change before `low` was committed by then, and none from `high` on, as far as times
        // follow revisions.
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(change) = self.record(collection, middle).await? else {
                // Retention removed it meanwhile: what is newer decides.
                low = middle + 1;
                continue;
            };
            if change.time <= time {
                low = middle + 1;
                found = Some(change);
            } else {
                high = middle;
            }
        }
        match found {
            Some(change) if view.keeps(change.revision) => Ok(PastPoint::from(&change)),
            Some(_lost) => Err(view.not_kept()),
            None => {
                let before = view.coverage.point(&view.head);
                let is_first = before.revision == 0;
                let is_then = before.time.map_or(is_first, |committed| committed <= time);
                let is_kept =
                    before.revision + 1 == view.head.oldest && view.keeps(before.revision);
                // Time passed it before the oldest change of the log, and after the one before that.
                if is_then && is_kept {
                    return Ok(before);
                }
                Err(view.not_kept())
            }
        }
    }

    async fn resolve_snapshot(
        &self,
        collection: &CollectionName,
        name: &SnapshotName,
    ) -> Result<PastPoint, PastError> {
        let no_snapshot = || PastError::NoSnapshot(name.clone());
        let snapshot = self.snapshot(name).await?.ok_or_else(no_snapshot)?;
        let of_collection = (snapshot.collections.iter()).find(|it| it.collection == *collection);
        let point = bases::pin(of_collection.ok_or_else(no_snapshot)?, snapshot.time);
        let view = self.past_view(collection).await?;
        if view.keeps(point.revision) || view.keeps_pinned(point.revision) {
            Ok(point)
        } else {
            Err(view.not_kept())
        }
    }

    /// A document as it was at a point; `None` when it did not exist. Both are proven
    /// (`evidence`).
    ///
    /// # Errors
    /// `PastError`, also when the point is not kept any more. `DamagedPast` and
    /// `SumMismatch` when the answer is not proven.
    pub async fn document_at(
        &self,
        point: &PastPoint,
        id: &DocumentId,
    ) -> Result<Option<Document>, PastError> {
        self.documents_of(point).document(id).await
    }

    /// Single documents of a state, one after another.
    pub fn documents_of<'a>(&'a self, point: &'a PastPoint) -> PastDocuments<'a> {
        PastDocuments {
            store: self,
            point,
            adds_up: false,
        }
    }

    async fn evidence(&self, point: &PastPoint, id: &DocumentId) -> Result<Evidence, PastError> {
        Ok(match self {
            Self::Embedded(store) => store.evidence(point, id).await?,
            Self::Mongo(store) => store.opened()?.evidence(point, id).await?,
        })
    }

    /// All documents of a collection as they were at a point. The first ones are read already, and
    /// the cursor compares all of them with the point before it ends.
    ///
    /// # Errors
    /// `PastError`. The cursor fails with one too when retention passes the point while it is
    /// read.
    pub async fn documents_at(&self, point: &PastPoint) -> Result<DocumentCursor, PastError> {
        let rows = PastRows::new(self.clone(), point.clone());
        let heads = vec![point.head()];
        let mut cursor = DocumentCursor::new(point.epoch, heads, Rows::Past(Box::new(rows)));
        cursor.begin().await?;
        Ok(cursor)
    }

    /// Makes base records where records were removed without any.
    pub(super) async fn cover(&self, collection: &CollectionName) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.cover(collection).await,
            Self::Mongo(store) => store.opened()?.cover(collection).await,
        }
    }

    /// Removes base records that no state needs any more.
    pub(super) async fn sweep(&self, collection: &CollectionName) -> anyhow::Result<()> {
        match self {
            Self::Embedded(store) => store.sweep(collection).await,
            Self::Mongo(store) => store.opened()?.sweep(collection).await,
        }
    }

    /// Gives records that a publisher of an earlier version wrote what finds them by their change set.
    ///
    /// # Errors
    /// When the store cannot be read or written. What was done until then is kept.
    pub async fn index_sets(&self) -> anyhow::Result<()> {
        match self {
            // Its only publisher did it when it opened the file.
            Self::Embedded(_) => Ok(()),
            Self::Mongo(store) => store.opened()?.index_sets().await,
        }
    }

    pub(super) async fn past_view(&self, collection: &CollectionName) -> anyhow::Result<PastView> {
        match self {
            Self::Embedded(store) => store.past_view(collection).await,
            Self::Mongo(store) => store.opened()?.past_view(collection).await,
        }
    }

    /// The states of a collection that named snapshots pin.
    async fn pins(&self, collection: &CollectionName) -> anyhow::Result<Vec<PastPoint>> {
        Ok(bases::pins_of(&self.snapshots().await?, collection))
    }

    /// The record of a revision in the change log.
    pub(crate) async fn record(
        &self,
        collection: &CollectionName,
        revision: Revision,
    ) -> anyhow::Result<Option<Change>> {
        let since = revision.saturating_sub(1);
        let found = self.changes(collection, since, 1, 1).await?;
        Ok(found.into_iter().find(|change| change.revision == revision))
    }
}

/// The state before the first change.
fn before_first(head: &Head) -> PastPoint {
    PastPoint {
        collection: head.collection.clone(),
        revision: 0,
        count: 0,
        digest: Digest::default(),
        epoch: head.epoch,
        time: None,
    }
}

/// Reads single documents of a past state.
#[derive(Debug)]
pub struct PastDocuments<'a> {
    store: &'a Store,
    point: &'a PastPoint,
    /// Whether all documents of the state were read and add up to it.
    adds_up: bool,
}

impl PastDocuments<'_> {
    /// As [`Store::document_at`].
    ///
    /// # Errors
    /// As [`Store::document_at`].
    pub async fn document(&mut self, id: &DocumentId) -> Result<Option<Document>, PastError> {
        let (store, point) = (self.store, self.point);
        if point.revision == 0 {
            return Ok(None);
        }
        // Twice: what was read first may be of a member of the database that was behind.
        for _attempt in 0..2 {
            // First, so that what changes it in the meantime is found after the point.
            let now = match store.document(&point.collection, id).await {
                Ok(now) => Some(now),
                // What it was may be known all the same.
                Err(error) if is_damage(&error) => None,
                Err(error) => return Err(error.into()),
            };
            let evidence = store.evidence(point, id).await?;
            match evidence.proof(point.revision, now.as_ref().map(Option::as_ref)) {
                Proof::Open if !self.adds_up => return self.add_up(id).await,
                Proof::Open | Proof::Proven => {
                    return Ok(evidence.found.and_then(|record| record.document()));
                }
                Proof::Contradicted => {}
            }
        }
        Err(anyhow::Error::from(DamagedPast::Document {
            collection: point.collection.clone(),
            id: id.clone(),
            revision: point.revision,
        })
        .into())
    }

    /// Reads all documents of the state, of which one is looked for.
    async fn add_up(&mut self, id: &DocumentId) -> Result<Option<Document>, PastError> {
        let proving = timeout(PROOF_WAIT, PROOFS.acquire());
        let _permit = (proving.await)
            .context("too many states of the past are being proven")?
            .context("no state of the past is proven any more")?;
        let mut found = None;
        let mut cursor = self.store.documents_at(self.point).await?;
        while let Some(chunk) = cursor.next().await? {
            found = found.or_else(|| (chunk.documents.into_iter()).find(|it| it.id() == id));
        }
        self.adds_up = true;
        Ok(found)
    }
}

/// The documents of a past state, chunk by chunk. Each chunk is read from what is kept at that time:
/// records do not change, so no snapshot of the store has to stay open.
#[derive(Debug)]
pub(super) struct PastRows {
    store: Store,
    point: PastPoint,
    /// The last id that was read.
    after: Option<DocumentId>,
    /// How many documents are looked for at once in MongoDB, so that few are looked for twice.
    ids: usize,
    ended: bool,
}

/// Some documents of a past state, ordered by id.
#[derive(Debug, Default)]
pub(super) struct PastPiece {
    pub(super) documents: Vec<Document>,
    /// The id that the piece ends with; `None` if it ends with the collection.
    pub(super) last: Option<DocumentId>,
    /// How many ids were examined.
    pub(super) examined: usize,
}

/// Documents that are looked for at once, at first and at most.
const FIRST_IDS: usize = 64;
const MAX_IDS: usize = 1_000;

impl PastRows {
    fn new(store: Store, point: PastPoint) -> Self {
        Self {
            ended: point.count == 0,
            store,
            point,
            after: None,
            ids: FIRST_IDS,
        }
    }

    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        if self.ended {
            return Ok(None);
        }
        let (point, after) = (&self.point, self.after.as_ref());
        let piece = match &self.store {
            Store::Embedded(store) => store.past_piece(point, after).await?,
            Store::Mongo(store) => store.opened()?.past_piece(point, after, self.ids).await?,
        };
        self.ended = piece.last.is_none();
        self.ids = (piece.examined * 2).clamp(FIRST_IDS, MAX_IDS);
        self.after = piece.last;
        Ok(Some(Chunk {
            collection: self.point.collection.clone(),
            documents: piece.documents,
            damaged: None,
        }))
    }
}
