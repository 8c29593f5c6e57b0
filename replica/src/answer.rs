//! What became of an event, in the three words that a broker understands.
//!
//! An answer says whether the event is worth sending again, and nothing about any reader of the
//! configuration.

/// The answer to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was applied, or there was nothing to do.
    Success,
    /// It failed in passing: send it again.
    Retry {
        /// Why, for the log.
        reason: String,
    },
    /// It can never succeed: do not send it again.
    Drop {
        /// Why, in one word that stays the same.
        reason: &'static str,
        /// Why, in full.
        error: String,
    },
}
