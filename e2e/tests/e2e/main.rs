//! Everything on real parts, through the front door of each program.

mod api;
mod delivery;
mod faults;
mod settings;
