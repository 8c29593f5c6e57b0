//! What every process needs and nothing of the domain: [`settings`] errors, [`telemetry`],
//! supervised [`tasks`], and [`streams`] without an end, [`openapi`] documents, and [`limits`] of
//! the system.
//!
//! This crate never knows what a document or an event is.

pub mod limits;
pub mod openapi;
pub mod settings;
pub mod streams;
pub mod tasks;
pub mod telemetry;
