//! The decision about what a request presents. It is the only code that makes an [`Identity`] of a
//! credential.

use contract::access::Identity;

/// What a request presents, as a service found it. Nothing in it is proven yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The header `Authorization`; `None` when the request has none.
    pub authorization: Option<&'a str>,
    /// Whether the request comes from this host, and no header says that it was forwarded.
    pub is_local: bool,
}

/// Why a request is refused. The text is for the caller, and repeats nothing that it sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request has no credential.
    #[error("send a token in the header Authorization: Bearer TOKEN")]
    Missing,
    /// The credential is none that is accepted here.
    #[error("{0}")]
    Invalid(String),
    /// It is not known whether the credential is valid.
    #[error("{0}")]
    Unavailable(String),
}

/// Decides who a caller is.
#[derive(Debug, Default)]
pub struct Authenticator {}

impl Authenticator {
    /// Asks for no credential: every caller has every right.
    pub fn open() -> Self {
        Self::default()
    }

    /// Who presents this.
    ///
    /// # Errors
    /// When the credential is missing or is not accepted.
    pub async fn authenticate(&self, _presented: Presented<'_>) -> Result<Identity, Refused> {
        Ok(Identity::unrestricted())
    }
}
