//! The answer to a write that conflicts with another one: what is there now, and which change made
//! it, as far as the caller may read it. Nothing here decides whether there is a conflict.

use contract::{
    Problem,
    access::{Right, Target},
    history::ChangeNote,
};
use service::http::caller::Caller;

use crate::{
    api::{Api, error::ApiError},
    decide::{DocumentKey, WriteError, references},
    rollback::last_change,
};

impl Api {
    /// The answer to writes of these documents that were refused. Where one conflicts with a stored
    /// document, the answer names the change that made it, if that is known: it is right without it.
    pub(super) async fn refusal(
        &self,
        error: WriteError,
        keys: &[DocumentKey],
        caller: &Caller,
    ) -> ApiError {
        let key = keys.get(error.index().unwrap_or(0));
        let may_read = |(collection, id): &DocumentKey| {
            caller.may(Right::Read, Target::Document(collection, id))
        };
        let made_by = match error.cause() {
            WriteError::HeadMoved {
                collection,
                revision,
                ..
            } => {
                let record = self.store.record(collection, *revision).await;
                record.map(|record| record.as_ref().map(ChangeNote::from))
            }
            cause => match (cause.stored(), key) {
                (Some(stored), Some(key)) => last_change(&self.store, key, stored).await,
                _no_conflict => Ok(None),
            },
        };
        let made_by = made_by.ok().flatten();
        let made_by = made_by.filter(|change| {
            caller.may(
                Right::Read,
                Target::Document(&change.collection, &change.id),
            )
        });
        let mut answer = ApiError::from(error);
        answer.problem.last_change = made_by.map(Box::new);
        // No role writes without reading; a role that will must not see by a failing write.
        if !key.is_none_or(may_read) {
            answer.problem.current = None;
            answer.problem.etag = None;
        }
        hide_referrers(&mut answer.problem, caller);
        answer
    }
}

/// Leaves out references of documents that the caller may not read. That there is one is not hidden:
/// it is why the write is refused.
fn hide_referrers(problem: &mut Problem, caller: &Caller) {
    let named = problem.references.len();
    problem.references.retain(|dangling| {
        let referrer = &dangling.referrer;
        caller.may(
            Right::Read,
            Target::Document(&referrer.collection, &referrer.id),
        )
    });
    if problem.references.len() < named {
        let mut parts = Vec::new();
        if !problem.references.is_empty() {
            parts.push(references::detail(&problem.references, false));
        }
        parts.push(
            "documents that the caller may not read refer to what would not exist".to_owned(),
        );
        problem.detail = parts.join("; ");
    }
}
