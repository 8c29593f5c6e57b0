//! Everything on real parts, through the front door of each program.

mod api;
mod dapr;
mod delivery;
mod faults;
mod local;
mod settings;
mod up;
