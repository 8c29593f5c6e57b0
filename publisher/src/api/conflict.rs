//! The answer to a write that conflicts with another one: what is there now, and which change made
//! it. Nothing here decides whether there is a conflict.

use contract::{Document, history::ChangeNote};

use crate::{
    api::{Api, error::ApiError},
    decide::{DocumentKey, WriteError},
};

/// Longest record of the log that is read for an answer, in bytes.
const RECORD_BYTES: usize = 1;

impl Api {
    /// The answer to writes of these documents that were refused. Where one conflicts with a stored
    /// document, the answer names the change that made it, if that is known.
    pub(super) async fn refusal(&self, error: WriteError, keys: &[DocumentKey]) -> ApiError {
        let stored = error.stored().map(|stored| stored.map(Document::revision));
        let index = error.index().unwrap_or(0);
        let mut answer = ApiError::from(error);
        if let (Some(Some(revision)), Some(key)) = (stored, keys.get(index)) {
            answer.problem.last_change = self.change_of(key, revision).await.map(Box::new);
        }
        answer
    }

    /// The change that made a revision of a document; none when it is no longer in the log, or the
    /// store cannot be read now.
    async fn change_of(&self, (collection, id): &DocumentKey, revision: u64) -> Option<ChangeNote> {
        let since = revision.checked_sub(1)?;
        let read = self.store.changes(collection, since, 1, RECORD_BYTES).await;
        let change = read.ok()?.into_iter().next()?;
        (change.revision == revision && change.id == *id).then(|| ChangeNote::from(&change))
    }
}
