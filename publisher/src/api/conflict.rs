//! The answer to a write that conflicts with another one: what is there now, and which change made
//! it. Nothing here decides whether there is a conflict.

use contract::history::ChangeNote;

use crate::{
    api::{Api, error::ApiError},
    decide::{DocumentKey, WriteError},
    rollback::last_change,
};

impl Api {
    /// The answer to writes of these documents that were refused. Where one conflicts with a stored
    /// document, the answer names the change that made it, if that is known: it is right without it.
    pub(super) async fn refusal(&self, error: WriteError, keys: &[DocumentKey]) -> ApiError {
        let made_by = match error.cause() {
            WriteError::HeadMoved {
                collection,
                revision,
                ..
            } => {
                let record = self.store.record(collection, *revision).await;
                record.map(|record| record.as_ref().map(ChangeNote::from))
            }
            cause => match (cause.stored(), keys.get(error.index().unwrap_or(0))) {
                (Some(stored), Some(key)) => last_change(&self.store, key, stored).await,
                _no_conflict => Ok(None),
            },
        };
        let mut answer = ApiError::from(error);
        answer.problem.last_change = made_by.ok().flatten().map(Box::new);
        answer
    }
}
