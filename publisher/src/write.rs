//! Writes, from the request to the commit.
//!
//! [`change_set`] checks change requests and makes commands of them. [`queue`] takes commands from
//! requests and from embedded units of work, [`group`] is the task that commits them in groups.
//! What a command does to its documents is decided in [`crate::decide`].

pub mod change_set;
mod group;
pub mod queue;
