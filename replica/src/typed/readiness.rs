//! Whether a service can begin to work: what the first load must bring, and why it did not. Nothing
//! here waits.

use std::fmt;

use contract::{CollectionName, status::RefusedValue, text::Escaped};

use super::Projection;

/// Refused values that an error names; the others are counted.
const MAX_NAMED: usize = 3;

/// What the first load must bring before a replica is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FirstLoad {
    /// A value of every document. A load in which values do not fit their types makes the replica
    /// not ready, until they are corrected. Once it was ready it stays ready: a document that is
    /// refused later keeps its last good value, and a new one has none.
    #[default]
    Whole,
    /// The values that fit, even if there is none. The service goes on without the others.
    Partial,
}

/// Why a replica is not ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The first load is not complete.
    #[error("the first load is not complete")]
    Loading,
    /// Values of the first load do not fit their types, and their documents have no earlier value.
    #[error(transparent)]
    Partial(#[from] PartialLoad),
}

/// A first load with refused values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialLoad {
    /// The first refused values, by type and id; at most three.
    pub first: Vec<(CollectionName, RefusedValue)>,
    /// How many there are.
    pub refused: usize,
}

impl std::error::Error for PartialLoad {}

impl fmt::Display for PartialLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, refused } = self;
        write!(
            f,
            "{refused} of the loaded documents have no value, because they do not fit their types: "
        )?;
        for (number, (collection, refusal)) in first.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            let RefusedValue {
                id,
                revision,
                pointer,
                error,
            } = refusal;
            // Both texts may quote the document.
            write!(
                f,
                "{separator}{collection}/{id} at revision {revision}, {:?}: {}",
                Escaped(pointer),
                Escaped(error)
            )?;
        }
        match refused.saturating_sub(first.len()) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl NotReady {
    /// Why a loaded projection is not ready: the refused values of documents without a value.
    pub(super) fn partial(projection: &Projection) -> Self {
        let refused = projection.refused_without_value();
        let named = projection.refused_without_value().take(MAX_NAMED);
        Self::Partial(PartialLoad {
            refused: refused.count(),
            first: named
                .map(|(decoder, refusal)| (decoder.collection.clone(), refusal.clone()))
                .collect(),
        })
    }
}
