//! Why the fleet refuses a request. It knows no HTTP status: the API maps each variant to a problem
//! type.

use contract::access::MissingRight;

/// A request of a replica or of an operator was refused.
///
/// The text of each variant is written for the caller: it says what happened and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The memory or the queue for waiting check-ins is full.
    #[error(
        "Too many check-ins are waiting, by number (AURA_CONFIGURATION_LIMIT_CHECK_INS) or by bytes; \
         check in again in one second"
    )]
    Busy,
    /// The task that answers check-ins has ended.
    #[error("The publisher is stopping; check in with another publisher")]
    Stopping,
    /// The store failed while the check-in waited. The failure itself is in the log.
    #[error("The store does not answer; try again")]
    StoreUnavailable,
    /// The name of the replica in the path is not valid.
    #[error("{reason}")]
    InvalidInstance {
        /// What is expected.
        reason: &'static str,
    },
    /// The body is not a valid check-in.
    #[error("{reason}")]
    InvalidCheckIn {
        /// JSON pointer (RFC 6901) to the value at fault.
        pointer: String,
        /// What is expected.
        reason: String,
    },
    /// The caller may not follow what the check-in reports.
    #[error("{0}")]
    Forbidden(MissingRight),
    /// A member of the request for a new epoch is out of bounds.
    #[error("{reason}")]
    InvalidEpochRequest {
        /// JSON pointer (RFC 6901) to the value at fault.
        pointer: &'static str,
        /// What is expected.
        reason: String,
    },
    /// No epoch can be declared for this store; a repetition of the request does not help.
    #[error("{0}")]
    NotDeclared(String),
    /// The store is not in a state in which an epoch can be declared. Nothing was changed.
    #[error("Nothing was changed, try again when the restore is complete: {0:#}")]
    NotDeclaredNow(anyhow::Error),
}
