//! Why a projection cannot go on. Nothing here is shown to a client: it is for log and status.

use std::time::Duration;

/// Why an attempt ended.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// The driver reports an error.
    #[error("MongoDB: {0}")]
    Database(#[from] mongodb::error::Error),
    /// The database did not answer within its time.
    #[error("MongoDB did not answer within {0:?}")]
    TimedOut(Duration),
    /// The server refused a part of a command.
    #[error("MongoDB refused a row: {0}")]
    RowRefused(String),
    /// A value or a number has no form in BSON.
    #[error("a row cannot be written: {0}")]
    Row(String),
    /// Another replica writes the projection, or wrote it meanwhile.
    #[error("another replica writes the projection")]
    NotHeld,
    /// The database is not one for this projection. Another attempt helps after an operator did
    /// something.
    #[error("{0}")]
    Refused(String),
}

impl From<mongodb::bson::error::Error> for ProjectionError {
    fn from(error: mongodb::bson::error::Error) -> Self {
        Self::Row(error.to_string())
    }
}
