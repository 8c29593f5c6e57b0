//! The state machine of a replica: what it holds, and what becomes of a change that arrives.
//!
//! Reading order: [`root`] (what readers see), [`collection`] (documents, watermark, digest), [`machine`] (decide and
//! apply), [`snapshot`] (prove a load complete, then install it).
//!
//! This crate is pure: it never does I/O, never reads a clock, never awaits. Everything hard about convergence is here,
//! where property tests can drive it through any history.

pub mod collection;
pub mod machine;
pub mod root;
pub mod snapshot;

pub use collection::Collection;
pub use machine::{Decision, Generation, Hint, Machine};
pub use root::Root;
pub use snapshot::{Incomplete, Installed, NotInstalled, Snapshot};

#[cfg(test)]
mod tests;
