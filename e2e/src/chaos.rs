//! The fault campaign: real processes are killed, frozen, cut off and restored while clients write
//! and readers read, and validators check the promises against what was written and what was
//! seen.
//!
//! [`cluster`] holds the processes and the links, [`schedule`] plans the faults, [`nemesis`] injects
//! them and notes its [`actions`]; [`forge`] is what strangers send, [`damage`] what
//! changes rows, [`stall`] who asks and does not read. [`driver`] writes and keeps the [`record`], [`reader`] reads and
//! keeps its [`observations`], and [`followers`] read by the ways of Dapr and as files; [`past`] reads
//! what was. [`validators`] are pure. Nothing here knows how the product keeps a promise.

pub mod actions;
pub mod campaign;
pub mod clock;
pub mod cluster;
pub mod component;
pub mod counts;
pub mod damage;
pub mod driver;
pub mod followers;
pub mod forge;
pub mod nemesis;
pub mod observations;
pub mod past;
pub mod proxy;
pub mod random;
pub mod reader;
pub mod record;
pub mod report;
pub mod restore;
mod rollbacks;
pub mod schedule;
pub mod snapshot;
pub mod stall;
pub mod transport;
pub mod validators;
