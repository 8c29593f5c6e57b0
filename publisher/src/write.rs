//! Writes, from the request to the commit.
//!
//! [`change_set`] checks change requests and makes commands of them. [`queue`] takes commands from
//! requests and from embedded units of work, [`ahead`] checks them before they wait,
//! [`large_work`] keeps large values apart, and [`group`] is the task that commits in groups.
//! What a command does to its documents is decided in [`crate::decide`].

use std::time::Duration;

mod ahead;
pub mod change_set;
mod group;
pub mod large_work;
pub mod queue;

#[cfg(test)]
mod tests;

/// A command that waited longer than this is not tried any more, neither for its check nor in the
/// queue.
const QUEUE_TIME: Duration = Duration::from_secs(5);
