//! A write without an answer: it may have been done, and a script must not take it for one that failed.

use std::{error::Error, fmt};

use client::ClientError;

/// The error of a write that may have been done.
#[derive(Debug)]
pub(crate) struct OutcomeUnknown(ClientError);

impl fmt::Display for OutcomeUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        write!(
            f,
            "it is not known whether this was written, read it before you write again: {error}"
        )
    }
}

impl Error for OutcomeUnknown {}

/// The error of a request that writes.
pub(crate) fn of_write(error: ClientError) -> anyhow::Error {
    match error.leaves_open() {
        true => OutcomeUnknown(error).into(),
        false => error.into(),
    }
}
