//! The subscriber: a replica of the configuration behind HTTP. Events come in, values go out.
//!
//! Reading order: [`settings`], [`app`] (binds, runs, stops), [`routes`] (what readers call; what a
//! sidecar calls is `replica::actix`), [`error`] (what readers are told when it does not work),
//! [`openapi`] (all of that for other programs).
//!
//! It never writes configuration and never decides what becomes of a change: the `replica` crate
//! does.

pub mod app;
pub mod error;
pub mod openapi;
pub mod routes;
pub mod settings;
