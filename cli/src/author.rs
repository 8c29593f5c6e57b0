//! The user and the reason that the writes of a command carry.
//!
//! They are stored in the change. Without credentials nothing verifies the user.

use client::{
    Endpoint,
    documents::{WriteOptions, header_value},
};

/// The user and the reason of the writes of a command
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Author {
    /// The user in the change record; without it the caller that the credentials name, or without
    /// credentials USER or LOGNAME of the environment. To name another user a caller needs the right
    /// assert-user
    #[arg(long, value_name = "NAME", value_parser = user)]
    user: Option<String>,
    /// Why it is done; it is stored in the record of the change, or with the named snapshot
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
}

impl Author {
    /// The same author, with this reason where none was given.
    pub(crate) fn because(mut self, reason: impl FnOnce() -> String) -> Self {
        self.reason.get_or_insert_with(reason);
        self
    }

    /// The endpoint, whose writes carry user and reason. `exact`: a PUT does not merge `metadata`.
    pub(crate) fn writing(&self, endpoint: Endpoint, exact: bool) -> Endpoint {
        // A caller that is known is the user itself. Another one needs a right of its own.
        let user = match &self.user {
            None if endpoint.is_authenticated() => None,
            None => login_name(),
            named => named.clone(),
        };
        endpoint.writing(WriteOptions {
            exact,
            user: user.as_deref().and_then(header_value),
            reason: self.reason.as_deref().and_then(header_value),
            wait: None,
        })
    }
}

/// The login name; none when the environment has none that can be a user id.
fn login_name() -> Option<String> {
    ["USER", "LOGNAME"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find_map(|name| user(&name).ok())
}

fn user(text: &str) -> Result<String, String> {
    contract::Context::default()
        .with_user_id(text)
        .map(|_valid| text.to_owned())
        .map_err(|_malformed| "expected 1 to 128 visible ASCII characters".to_owned())
}

fn reason(text: &str) -> Result<String, String> {
    contract::Context::default()
        .with_reason(text)
        .map(|_valid| text.to_owned())
        .map_err(|_malformed| "expected 1 to 512 bytes without line breaks".to_owned())
}
