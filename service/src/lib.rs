//! What the publisher and the subscriber have in common as services.
//!
//! [`runtime`] is the process: settings, tasks, logging, exit codes. [`http`] is the surface that
//! both services offer: routes and their OpenAPI document, problems, entity tags, the change feed,
//! and limits for long answers. [`nearest`] finds the name that was meant.
//!
//! This crate reads no store and holds no configuration: each service hands it the data to send.
//! The replica library does not depend on it.

pub mod http;
pub mod nearest;
pub mod runtime;
