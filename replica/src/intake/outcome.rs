//! What became of an event, in the three words that a broker understands.
//!
//! An outcome says whether the event is worth sending again, and nothing about any reader of the
//! configuration.

/// The answer to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventOutcome {
    /// It was applied, or there was nothing to do.
    Success,
    /// It failed for now: the broker sends it again.
    Retry {
        /// Why, for the log.
        reason: String,
    },
    /// It can never succeed: the broker does not send it again.
    Drop {
        /// Why, as one word of a fixed list: `wrong-type`, `too-large`, …
        reason: &'static str,
        /// Why, in full.
        error: String,
    },
}
