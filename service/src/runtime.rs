//! The process: how it reads settings, runs tasks, writes logs and ends.
//!
//! Nothing in this module knows HTTP or configuration documents.

pub mod drain;
pub mod limits;
pub mod log_rate;
pub mod process;
pub mod settings;
pub mod tasks;
pub mod telemetry;

pub use tls::regular_file;
