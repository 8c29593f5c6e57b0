//! Who a caller is: what a request presents becomes an [`Identity`] with grants, or is refused.
//!
//! | module | content |
//! |---|---|
//! | `authenticator` | the decision about what a request presents |
//! | `token`, `table` | bearer tokens of this project, and their records |
//! | `issuers`, `signatures` | JSON Web Tokens of other issuers |
//! | `certificates` | names in client certificates |
//! | `names` | the names of callers |
//!
//! The crate knows no web framework: a service hands over what it found in a request ([`Presented`]).
//! What the identity may do is decided elsewhere ([`contract::access`]). No credential is ever logged,
//! and none is kept in plain text.

mod authenticator;
mod certificates;
mod issuers;
mod names;
mod signatures;
mod table;
mod token;

use std::{io, path::Path};

pub use authenticator::{
    Anonymous, Authenticator, FileError, FileKind, Files, Presented, Refused, Session, Setup,
    StoreTokens,
};
pub use contract::access::Identity;
pub use table::RecordsError;
pub use token::SecretToken;

/// Reads a file of at most so many bytes. It is called where blocking is allowed.
pub type ReadFile = fn(&Path, u64) -> io::Result<Vec<u8>>;

/// Makes a client for the keys of an issuer, which trusts the authorities of the file if one is given.
/// The error is the fault in words.
pub type HttpClient = fn(Option<&Path>) -> Result<reqwest::Client, String>;
