//! Writes, from the request to the commit.
//!
//! [`change_set`] checks change requests and makes commands of them. [`queue`] takes commands from
//! requests and from embedded units of work, [`ahead`] checks them before they wait,
//! [`large_work`] keeps large values apart, and [`group`] is the task that commits in groups.
//! What a command does to its documents is decided in [`crate::decide`].

mod ahead;
pub mod change_set;
mod group;
pub mod large_work;
pub mod queue;

#[cfg(test)]
mod tests;
