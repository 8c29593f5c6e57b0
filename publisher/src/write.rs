//! From a request to a group: the queue that every write passes, and the checks of a change set.

pub mod change_set;
pub mod queue;
