//! The state machine of a replica: its documents, and the decision about each change that arrives.
//!
//! Reading order: [`root`] (the state that readers see), [`id_map`], `order` and `documents` (how
//! documents are found and listed), [`collection`] (documents, watermark, digest), [`received`] (a
//! change that arrives), [`machine`] (decide and apply), `staging` (changes that wait for a change
//! set), `sets` (the last change sets), [`snapshot`] (prove a load complete, then install it),
//! [`image`] (the last known good state as bytes).
//!
//! A step goes like this: a change arrives as [`ReceivedChange`]; [`Machine::apply`] decides about it
//! and makes it visible, stages it or ignores it; the caller takes [`Machine::take_visible`] and
//! publishes a clone of [`Machine::root`] to the readers.
//!
//! This crate is pure: it reads no clock, never awaits, and does I/O only on readers and writers
//! that the caller gives. Everything that is hard about convergence is here, where property tests
//! can drive it through any history.

pub mod collection;
mod documents;
pub mod id_map;
pub mod image;
pub mod machine;
mod order;
pub mod received;
pub mod root;
mod sets;
pub mod snapshot;
mod staging;

pub use collection::CollectionState;
pub use id_map::{HasId, IdMap};
pub use image::{Image, ImageError};
pub use machine::{LoadId, Machine, VisibleChange};
pub use received::{Decision, Origin, ReceivedChange, SignedChange};
pub use root::{Difference, Root};
pub use snapshot::{InstallError, InstallKind, Installed, Snapshot, SnapshotBuilder};

#[cfg(test)]
mod tests;
