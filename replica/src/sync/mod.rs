//! The loop that keeps a replica in step: it checks in, catches up and loads. Events make a replica
//! fast; this makes it right.
//!
//! [`SyncLoop`] is the only caller of [`CheckIns`], [`CatchUp`] and [`Loader`], so there is one
//! request for changes or documents at a time. The loop never ends by itself, and a failure never
//! costs anything that is held.

mod catch_up;
mod check_in;
mod load;
mod run;
mod schedule;
mod signals;

pub(crate) use catch_up::CatchUp;
pub(crate) use check_in::{CheckIns, IntakeMonitor};
use contract::ProblemKind;
pub(crate) use load::Loader;
pub(crate) use run::SyncLoop;
#[cfg(feature = "redis")]
pub(crate) use schedule::gap_of_changed;
pub(crate) use signals::SyncSignals;
use state::InstallError;

use crate::SourceError;

/// Why a check-in, a catch-up or a load did not bring the replica into step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// No publisher gave a usable answer.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The answer would replace what is held by something older or foreign.
    #[error("the answer of the publisher is refused: {0}")]
    Install(#[from] InstallError),
}

impl SyncError {
    /// Whether it lasts until a person acts: the publisher knows no caller by what this replica shows,
    /// or it has another store.
    fn needs_a_person(&self) -> bool {
        match self {
            Self::Source(SourceError::Client(error)) => {
                error.kind() == Some(ProblemKind::Unauthenticated)
            }
            Self::Install(InstallError::OtherStore(_)) => true,
            _ => false,
        }
    }
}
