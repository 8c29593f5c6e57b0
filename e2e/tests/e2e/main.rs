//! All tests use real programs and servers, through the public interface of each program.

mod api;
mod claims;
mod context;
mod dapr;
mod delivery;
mod epoch;
mod examples;
mod faults;
mod feed;
mod fleet;
mod languages;
mod local;
mod log;
mod metrics;
mod one_document;
mod openapi;
mod reap;
mod redis;
mod schemas;
mod sets;
mod settings;
mod stalled;
mod survival;
mod tail;
mod undo;
mod up;
