//! Why a request about dead letters is refused. It knows no HTTP status: the API maps each variant to
//! a problem type.

use contract::dead_letter::DeadLetterId;

use crate::transport::Deliveries;

/// A request about dead letters was refused, or failed.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// Too many letters arrive at the same time.
    #[error("Too many dead letters arrive at the same time; the letter was not kept")]
    Busy,
    /// The store has no such letter.
    #[error("There is no dead letter {0}: it was discarded, or had to go for newer ones")]
    Unknown(DeadLetterId),
    /// The report of a replica is not valid.
    #[error("{reason}")]
    InvalidReport {
        /// JSON pointer (RFC 6901) to the value at fault.
        pointer: &'static str,
        /// What is expected.
        reason: String,
    },
    /// The event of the letter cannot be sent again, and a repetition does not help.
    #[error("The event cannot be sent again: {0}")]
    NotReplayable(String),
    /// The transport did not take the event.
    #[error("The event was not sent; try again: {0:#}")]
    NotSent(anyhow::Error),
    /// Every subscriber was asked, and none took the event.
    #[error(
        "The event was sent and no subscriber took it, so the letter stays open. Of the subscribers \
         that this publisher knows, {} answered DROP, {} cannot be reached, failed or answered \
         RETRY, and {} do not subscribe to the collection",
        .0.dropped, .0.failed, .0.not_subscribed
    )]
    NotTaken(Deliveries),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] anyhow::Error),
}
