//! The change log as an outbox: committed changes are published from it, and old ones are removed.
//!
//! [`relay`] publishes each change until the transport accepts its event; [`retention`] removes the
//! oldest changes. Both run beside the writer, in every publisher of a store.

mod put_back;
pub mod relay;
pub mod retention;
