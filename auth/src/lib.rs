//! Who a caller is: what a request presents becomes an [`Identity`] with grants, or is refused.
//!
//! [`Authenticator`] is the one place that decides. It knows no web framework: a service hands over
//! what it found in a request ([`Presented`]). What the identity may do is decided elsewhere
//! ([`contract::access`]). No credential is ever logged, and none is kept in plain text.

mod authenticator;

pub use authenticator::{Authenticator, Presented, Refused};
pub use contract::access::Identity;
