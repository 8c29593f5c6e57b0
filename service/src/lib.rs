//! What every process needs and nothing of the domain: [`settings`] errors, [`telemetry`], supervised [`tasks`].
//!
//! This crate never knows what a document or an event is.

pub mod settings;
pub mod tasks;
pub mod telemetry;
