//! What status and metrics show of a projection. It is written by the projector alone and decides
//! nothing. A log line is written when the state changes, not at every attempt.

use std::sync::{Mutex, MutexGuard, PoisonError};

use contract::{
    CollectionName,
    status::{ProjectedCollection, ProjectionState, ProjectionStatus},
    text::Escaped,
};

use crate::{ProjectionError, rows::Position};

/// Characters of an error that are shown.
const MAX_ERROR: usize = 300;

/// The state of a projection.
#[derive(Debug)]
pub(crate) struct SharedState(Mutex<ProjectionStatus>);

impl SharedState {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(ProjectionStatus {
            state: ProjectionState::Connecting,
            collections: Vec::new(),
            transactions: 0,
            rows: 0,
            mended: 0,
            failures: 0,
            last_error: None,
        }))
    }

    pub(crate) fn status(&self) -> ProjectionStatus {
        self.lock().clone()
    }

    /// Work goes on: an earlier failure is over.
    pub(crate) fn set(&self, state: ProjectionState) {
        let mut status = self.lock();
        let before = std::mem::replace(&mut status.state, state);
        status.last_error = None;
        if before == state {
            return;
        }
        let (before, state) = (before.as_str(), state.as_str());
        match (before, state) {
            // These two alternate with every change.
            ("current", "behind") | ("behind", "current") => {
                tracing::debug!(before, state, "the projection is {state}, it was {before}");
            }
            _ => tracing::info!(before, state, "the projection is {state}, it was {before}"),
        }
    }

    /// An attempt failed.
    pub(crate) fn failed(&self, error: &ProjectionError) {
        let text: String = error.to_string().chars().take(MAX_ERROR).collect();
        let state = match error {
            ProjectionError::Refused(_) => ProjectionState::Refused,
            _ => ProjectionState::Unavailable,
        };
        let mut status = self.lock();
        status.failures += 1;
        let is_new = status.state != state || status.last_error.as_ref() != Some(&text);
        status.state = state;
        if is_new {
            let shown = Escaped(&text);
            let state = state.as_str();
            tracing::warn!(
                state,
                "the projection is {state} and tries again, the replica serves on: {shown}"
            );
        }
        status.last_error = Some(text);
    }

    /// Positions were read.
    pub(crate) fn positions<'a>(
        &self,
        positions: impl IntoIterator<Item = (&'a CollectionName, &'a Position)>,
    ) {
        self.lock().collections = positions
            .into_iter()
            .map(|(name, position)| ProjectedCollection {
                collection: name.clone(),
                epoch: position.epoch,
                revision: position.revision,
                reconciling: !position.is_settled(),
            })
            .collect();
    }

    /// A transaction was committed. `mended` = its rows differed without a reason.
    pub(crate) fn committed(&self, rows: u64, mended: bool) {
        let mut status = self.lock();
        status.transactions += 1;
        status.rows += rows;
        if mended {
            status.mended += rows;
        }
    }

    /// Nothing is awaited under the lock, and every write leaves a whole status.
    fn lock(&self) -> MutexGuard<'_, ProjectionStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
