//! The harness of the end-to-end tests: a [`testbed`] of real programs, and [`chaos`], the fault
//! campaign that runs on it.
//!
//! Nothing here replaces a program by a fake one. A test is never skipped because a program is
//! missing: [`testbed::dependencies`] provides it.

pub mod chaos;
pub mod client;
pub mod testbed;

pub use ::client::http;
