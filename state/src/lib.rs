//! The state machine of a replica: what it holds, and what becomes of a change that arrives.
//!
//! Reading order: [`root`] (what readers see), [`collection`] (documents, watermark, digest),
//! [`hint`] (what arrives, and what becomes of it), [`machine`] (decide and apply), `staging` (what
//! waits for a set), `sets` (which came last), [`snapshot`] (prove a load complete, then install
//! it), [`image`] (last known good, as bytes).
//!
//! This crate is pure: it never does I/O but on readers and writers that it is given, never reads a
//! clock, never awaits. Everything hard about convergence is here, where property tests can drive
//! it through any history.

pub mod collection;
pub mod image;
pub mod machine;
pub mod received;
pub mod root;
mod sets;
pub mod snapshot;
mod staging;

pub use collection::CollectionState;
pub use image::{Image, ImageError};
pub use machine::{LoadId, Machine, VisibleChange};
pub use received::{Decision, ReceivedChange};
pub use root::{Difference, Root};
pub use snapshot::{InstallError, InstallKind, Installed, Snapshot, SnapshotBuilder};

#[cfg(test)]
mod tests;
