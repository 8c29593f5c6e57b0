//! Projections of a real publisher into a real MongoDB, through the public interface.

mod content;
mod faults;
mod refusals;
mod sets;
mod testbed;
