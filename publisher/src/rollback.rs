//! Rollbacks: documents get a value back that they had before.
//!
//! What a document is now and what it was are read from the store; `plan` makes the writes that lead
//! from one to the other. They are a change set like any other, checked by the rules of today and
//! conditional on what was read: a rollback never overwrites a change that it has not seen.
//!
//! Nothing here changes the log: the past stays as it was, and a rollback can be rolled back.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use anyhow::Context as _;
use contract::{
    Change, CollectionName, Context, Document, DocumentId, Epoch, Expected, Head, Operation,
    ProblemKind, Revision, Version,
    history::{ChangeNote, HistoryFilter, Point, difference},
    rollback::{Rollback, RollbackExpected},
};
use tokio::time::Instant;

use crate::{
    decide::{DocumentKey, Origin, WriteError},
    store::{
        DocumentCursor, Store,
        past::{PastPoint, history::HistoryQuery},
    },
    write::queue::Writer,
};

pub mod error;
mod plan;

pub use error::{Conflict, RollbackError};
pub use plan::Plan;
use plan::Step;

/// A revision of a collection that a rollback expects.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedRevision {
    /// Its epoch; `None` = the one of now.
    pub epoch: Option<Epoch>,
    /// The revision.
    pub revision: Revision,
}

/// What a rollback of a collection is restricted to.
#[derive(Debug, Clone, Default)]
pub struct Restriction {
    /// The revision after which none of the documents was changed.
    pub expected: Option<ExpectedRevision>,
    /// These documents only.
    pub ids: Option<BTreeSet<DocumentId>>,
    /// The first documents only, when there are more than a change set may have.
    pub partial: bool,
}

/// Plans rollbacks and writes them.
#[derive(Debug, Clone, Copy)]
pub struct Rollbacks<'a> {
    /// What documents are and were.
    pub store: &'a Store,
    /// Where rollbacks are written.
    pub writer: &'a Writer,
}

impl Rollbacks<'_> {
    /// A rollback of one document, which must be as expected.
    ///
    /// # Errors
    /// [`RollbackError`]
    pub async fn of_document(
        &self,
        key: DocumentKey,
        point: &Point,
        expected: &Expected,
    ) -> Result<Plan, RollbackError> {
        let point = self.store.resolve(&key.0, point).await?;
        let now = self.store.document(&key.0, &key.1).await?;
        let stored = now.as_ref().map(|now| (now.revision(), now.crc()));
        if !expected.holds(stored) {
            return Err(RollbackError::NotAsExpected(self.conflict(key, now).await));
        }
        let then = self.store.document_at(&point, &key.1).await?;
        let shown = stored.map_or(RollbackExpected::Revision(0), |(revision, crc)| {
            let crc = Some(crc);
            RollbackExpected::Document(Version { revision, crc })
        });
        let mut plan = Plan::to(point.revision, shown);
        self.add(&mut plan, key, now.as_ref(), then.as_ref())
            .await?;
        Ok(plan)
    }

    /// A rollback of the documents of a collection.
    ///
    /// # Errors
    /// [`RollbackError`]
    pub async fn of_collection(
        &self,
        collection: &CollectionName,
        point: &Point,
        restriction: &Restriction,
    ) -> Result<Plan, RollbackError> {
        let point = self.store.resolve(collection, point).await?;
        let mut plan = match &restriction.ids {
            Some(ids) => self.of_documents(&point, ids, restriction.expected).await?,
            None => self.of_all(&point, restriction.expected).await?,
        };
        if plan.is_partial() && !restriction.partial {
            return Err(RollbackError::TooMany(plan.differing()));
        }
        plan.one_of_parts = restriction.partial;
        Ok(plan)
    }

    /// All documents that are not as they were: both states are read side by side, each from one
    /// snapshot and proven at its end.
    async fn of_all(
        &self,
        point: &PastPoint,
        expected: Option<ExpectedRevision>,
    ) -> Result<Plan, RollbackError> {
        let collection = &point.collection;
        let mut now = Documents::of(self.store.documents(&[collection.clone()].into()).await?);
        let head = now.head()?;
        let expected = expected_of(head, expected)?;
        if let Some(expected) = expected.filter(|expected| *expected != head.revision) {
            return Err(head_moved(head, expected));
        }
        let shown = RollbackExpected::Collection(head.epoch, head.revision);
        let mut plan = Plan::to(point.revision, shown);
        if let Some(expected) = expected {
            plan.expected_heads.insert(collection.clone(), expected);
        }
        let mut then = Documents::of(self.store.documents_at(point).await?);
        let (mut is, mut was) = (now.next().await?, then.next().await?);
        // Both are ordered by id.
        while let Some(id) = first_id(is.as_ref(), was.as_ref()) {
            let (mut now_one, mut then_one) = (None, None);
            if is.as_ref().is_some_and(|document| *document.id() == id) {
                now_one = is.take();
                is = now.next().await?;
            }
            if was.as_ref().is_some_and(|document| *document.id() == id) {
                then_one = was.take();
                was = then.next().await?;
            }
            let key = (collection.clone(), id);
            self.add(&mut plan, key, now_one.as_ref(), then_one.as_ref())
                .await?;
        }
        Ok(plan)
    }

    /// The documents with these ids.
    async fn of_documents(
        &self,
        point: &PastPoint,
        ids: &BTreeSet<DocumentId>,
        expected: Option<ExpectedRevision>,
    ) -> Result<Plan, RollbackError> {
        let collection = &point.collection;
        // Read before the documents, so that a change of one of them after this is noticed.
        let heads = self.store.heads(&[collection.clone()].into()).await?;
        let head = heads.first().context("a collection without a head")?;
        let expected = expected_of(head, expected)?;
        if let Some(expected) = expected.filter(|expected| *expected > head.revision) {
            return Err(head_moved(head, expected));
        }
        let shown = expected.unwrap_or(head.revision);
        let shown = RollbackExpected::Collection(head.epoch, shown);
        let mut plan = Plan::to(point.revision, shown);
        let mut past = self.store.documents_of(point);
        for id in ids {
            let key = (collection.clone(), id.clone());
            let now = self.store.document(collection, id).await?;
            if let Some(expected) = expected
                && !self
                    .is_unchanged(&key, now.as_ref(), expected, head.oldest)
                    .await?
            {
                return Err(RollbackError::NotAsExpected(self.conflict(key, now).await));
            }
            let then = past.document(id).await?;
            self.add(&mut plan, key, now.as_ref(), then.as_ref())
                .await?;
        }
        Ok(plan)
    }

    /// The undo of a change set, which made these changes: each of its documents as it was before the
    /// set. `serves` tells which collections are served here.
    ///
    /// # Errors
    /// [`RollbackError`]; [`RollbackError::ChangedSince`] when the change of the set is no longer the
    /// newest of one of its documents.
    pub async fn of_set(
        &self,
        changes: &[Change],
        serves: impl Fn(&CollectionName) -> Result<(), WriteError>,
    ) -> Result<Plan, RollbackError> {
        let mut plan = Plan::default();
        for change in changes {
            serves(&change.collection).map_err(RollbackError::Failed)?;
            let key = (change.collection.clone(), change.id.clone());
            let now = self.store.document(&key.0, &key.1).await?;
            if !self.is_newest(change, now.as_ref()).await? {
                return Err(RollbackError::ChangedSince(self.conflict(key, now).await));
            }
            let before = Point::Revision(change.revision.saturating_sub(1));
            let before = self.store.resolve(&key.0, &before).await?;
            let then = self.store.document_at(&before, &key.1).await?;
            self.add(&mut plan, key, now.as_ref(), then.as_ref())
                .await?;
        }
        // Its values of then may be larger than those that the set wrote.
        if plan.is_partial() {
            return Err(RollbackError::TooMany(plan.differing()));
        }
        Ok(plan)
    }

    /// Writes a plan. A plan without changes writes nothing.
    ///
    /// # Errors
    /// [`RollbackError::Write`], also when a document was changed since it was planned.
    pub async fn write(
        &self,
        mut plan: Plan,
        context: &Context,
        actor: Arc<str>,
    ) -> Result<Rollback, RollbackError> {
        if plan.steps.is_empty() {
            return Ok(plan.answer(None));
        }
        let mut set = plan.command(context);
        for write in &mut set.writes {
            write.origin = Origin {
                actor: actor.clone(),
                is_rollback: true,
            };
        }
        let written = self.writer.write_set(set).await;
        let written = match written {
            Ok(written) => written,
            Err(error) => return Err(self.refusal(&plan, error).await),
        };
        // Nothing else was written since `expected`, so the set is all that is new.
        let last = written.items.iter().map(|item| item.revision).max();
        plan.expected = match (plan.expected, last) {
            (Some(RollbackExpected::Collection(epoch, _shown)), Some(last))
                if !plan.expected_heads.is_empty() =>
            {
                Some(RollbackExpected::Collection(epoch, last))
            }
            _document_or_unconditional => None,
        };
        Ok(plan.answer(Some(written)))
    }

    /// Shows a plan that [`Self::write`] would write now; of one of several parts, without its
    /// references to the others.
    ///
    /// # Errors
    /// The refusals of [`Self::write`].
    pub async fn show(&self, plan: Plan) -> Result<Rollback, RollbackError> {
        if !plan.steps.is_empty()
            && let Err(error) = self.writer.judge(plan.command(&Context::default())).await
            && !(plan.one_of_parts && error.kind() == ProblemKind::DanglingReference)
        {
            return Err(self.refusal(&plan, error).await);
        }
        Ok(plan.answer(None))
    }

    /// The refusal of the change set of a plan.
    async fn refusal(&self, plan: &Plan, error: WriteError) -> RollbackError {
        // Pointers of the error are into a change set, which the caller did not send.
        let is_value = matches!(error.kind(), ProblemKind::Schema | ProblemKind::TooLarge);
        if is_value && let Err(refused) = self.check(plan).await {
            return refused;
        }
        RollbackError::Write {
            error,
            keys: plan.keys(),
        }
    }

    /// Checks the values of a plan by the rules of today.
    async fn check(&self, plan: &Plan) -> Result<(), RollbackError> {
        let since = Instant::now();
        for (index, (step, _diff)) in plan.steps.iter().enumerate() {
            let write = step.write(&Context::default());
            let store = self.store.clone();
            let check = move || store.policy().rules.check_ahead(&write, None).map(drop);
            let checked = self.large_work(since, step.bytes(), check).await?;
            checked.map_err(|error| plan.refused(index, error))?;
        }
        Ok(())
    }

    /// Adds a document to the plan, unless it has the value of then.
    async fn add(
        &self,
        plan: &mut Plan,
        key: DocumentKey,
        now: Option<&Document>,
        then: Option<&Document>,
    ) -> Result<(), RollbackError> {
        let step = Step::between(key, now, then).map_err(anyhow::Error::from)?;
        let Some(step) = step else {
            return Ok(());
        };
        if !plan.has_room_for(&step) {
            plan.leave_out();
            return Ok(());
        }
        let now = now.cloned();
        let bytes = step.bytes() + now.as_ref().map_or(0, |now| now.config_data().len());
        let value = step.then.as_ref().map(|(_revision, value)| value.clone());
        let compare = move || {
            let now = now.and_then(|now| now.value().ok());
            difference(now.as_ref(), value.as_ref())
        };
        let diff = self.large_work(Instant::now(), bytes, compare).await?;
        plan.add(step, diff);
        Ok(())
    }

    async fn large_work<T: Send + 'static>(
        &self,
        since: Instant,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RollbackError> {
        let done = self.writer.large_work().run(since, bytes, work).await;
        done.map_err(RollbackError::Failed)
    }

    /// Whether a change is the newest of its document.
    async fn is_newest(&self, change: &Change, now: Option<&Document>) -> anyhow::Result<bool> {
        match now {
            Some(now) => Ok(now.revision() == change.revision),
            None if change.op != Operation::Delete => Ok(false),
            // It may have been created and deleted again since.
            None => {
                let key = (change.collection.clone(), change.id.clone());
                let deletion = last_change(self.store, &key, None).await?;
                Ok(deletion.is_some_and(|deletion| deletion.revision == change.revision))
            }
        }
    }

    /// Whether a document was not changed after a revision, which the log reaches up to `oldest`.
    async fn is_unchanged(
        &self,
        key: &DocumentKey,
        now: Option<&Document>,
        since: Revision,
        oldest: Revision,
    ) -> anyhow::Result<bool> {
        if let Some(now) = now {
            return Ok(now.revision() <= since);
        }
        Ok(match last_change(self.store, key, None).await? {
            Some(deletion) => deletion.revision <= since,
            // It was deleted before the log begins, if it ever existed.
            None => oldest <= since.saturating_add(1),
        })
    }

    async fn conflict(&self, key: DocumentKey, stored: Option<Document>) -> Conflict {
        // The answer is right without it.
        let found = last_change(self.store, &key, stored.as_ref()).await;
        let last_change = found.ok().flatten();
        Conflict {
            key,
            stored,
            last_change,
        }
    }
}

/// The change that made a document what it is: `stored`, or deleted. `None` when its record is no
/// longer in the log, or the document is another one by now.
///
/// # Errors
/// When the store cannot be read.
pub async fn last_change(
    store: &Store,
    (collection, id): &DocumentKey,
    stored: Option<&Document>,
) -> anyhow::Result<Option<ChangeNote>> {
    if let Some(stored) = stored {
        let record = store.record(collection, stored.revision()).await?;
        let record = record.filter(|record| record.id == *id);
        return Ok(record.as_ref().map(ChangeNote::from));
    }
    let query = HistoryQuery {
        collections: BTreeSet::from([collection.clone()]),
        filter: HistoryFilter {
            id: Some(id.clone()),
            ..HistoryFilter::default()
        },
        before: None,
        limit: 1,
    };
    let page = store.history(&query).await?;
    let newest = page.items.first().map(|item| &item.change);
    // It may have been created meanwhile.
    let deletion = newest.filter(|newest| newest.op == Operation::Delete);
    Ok(deletion.map(ChangeNote::from))
}

/// The documents of one collection, one after another.
struct Documents {
    cursor: DocumentCursor,
    chunk: VecDeque<Document>,
}

impl Documents {
    fn of(cursor: DocumentCursor) -> Self {
        Self {
            cursor,
            chunk: VecDeque::new(),
        }
    }

    /// The head of the collection.
    fn head(&self) -> anyhow::Result<&Head> {
        let head = self.cursor.heads.first();
        head.context("a collection without a head")
    }

    async fn next(&mut self) -> anyhow::Result<Option<Document>> {
        while self.chunk.is_empty() {
            match self.cursor.next().await? {
                Some(chunk) => self.chunk = chunk.documents.into(),
                None => return Ok(None),
            }
        }
        Ok(self.chunk.pop_front())
    }
}

/// The revision that is expected.
///
/// # Errors
/// [`RollbackError::OtherEpoch`]: a database was restored, and the revision may stand for another
/// state now.
#[expect(
    clippy::result_large_err,
    reason = "the error of a refused write has its whole problem; a rollback is rare"
)]
fn expected_of(
    head: &Head,
    expected: Option<ExpectedRevision>,
) -> Result<Option<Revision>, RollbackError> {
    let epoch = expected.and_then(|expected| expected.epoch);
    match epoch.filter(|epoch| *epoch != head.epoch) {
        Some(expected) => Err(RollbackError::OtherEpoch {
            collection: head.collection.clone(),
            epoch: head.epoch,
            expected,
        }),
        None => Ok(expected.map(|expected| expected.revision)),
    }
}

fn head_moved(head: &Head, expected: Revision) -> RollbackError {
    RollbackError::Write {
        error: WriteError::HeadMoved {
            collection: head.collection.clone(),
            revision: head.revision,
            expected,
        },
        keys: Vec::new(),
    }
}

fn first_id(now: Option<&Document>, then: Option<&Document>) -> Option<DocumentId> {
    now.into_iter().chain(then).map(Document::id).min().cloned()
}
