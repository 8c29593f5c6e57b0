//! The answer to a write that conflicts with another one: what is there now, and which change made
//! it. Nothing here decides whether there is a conflict.

use contract::{CollectionName, Revision, history::ChangeNote};

use crate::{
    api::{Api, error::ApiError},
    decide::{DocumentKey, WriteError},
    rollback::newest_change,
};

/// One record of the log is read for an answer, whatever its size.
const RECORD_BYTES: usize = 1;

impl Api {
    /// The answer to writes of these documents that were refused. Where one conflicts with a stored
    /// document, the answer names the change that made it, if that is known.
    pub(super) async fn refusal(&self, error: WriteError, keys: &[DocumentKey]) -> ApiError {
        let last_change = match error.cause() {
            WriteError::HeadMoved {
                collection,
                revision,
                ..
            } => self.change(collection, *revision).await,
            cause => match (cause.stored(), keys.get(error.index().unwrap_or(0))) {
                (Some(stored), Some(key)) => {
                    let newest = newest_change(&self.store, key).await.ok().flatten();
                    let revision = stored.map(contract::Document::revision);
                    // A later change may have come meanwhile: the answer is of one moment.
                    newest.filter(|newest| revision.is_none_or(|it| it == newest.revision))
                }
                _no_conflict => None,
            },
        };
        let mut answer = ApiError::from(error);
        answer.problem.last_change = last_change.map(Box::new);
        answer
    }

    /// The change of a revision; none when it is no longer in the log, or the store cannot be read
    /// now: the answer is right without it.
    async fn change(&self, collection: &CollectionName, revision: Revision) -> Option<ChangeNote> {
        let since = revision.checked_sub(1)?;
        let read = self.store.changes(collection, since, 1, RECORD_BYTES).await;
        let change = read.ok()?.into_iter().next()?;
        (change.revision == revision).then(|| ChangeNote::from(&change))
    }
}
