//! The subscriber: a replica of the configuration behind HTTP.
//!
//! Reading order: [`settings`], [`app`] (opens the port, runs, stops), [`api`] (the routes for
//! readers and operators; the routes for a sidecar are in `replica::actix`).
//!
//! The subscriber never writes configuration, and it never decides what happens to a change: the
//! `replica` crate does.

pub mod api;
pub mod app;
pub mod settings;
