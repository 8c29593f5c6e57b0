//! The change log as an outbox: committed changes are published from it, and old ones are removed.

pub mod relay;
pub mod retention;
