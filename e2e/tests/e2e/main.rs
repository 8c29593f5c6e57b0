//! Everything on real parts, through the front door of each program.

mod api;
mod dapr;
mod delivery;
mod epoch;
mod faults;
mod fleet;
mod local;
mod settings;
mod survival;
mod up;
