//! The fault campaign: real parts are killed, frozen, cut off and put back while clients write and
//! readers look, and a judge holds the seven promises against what was written and what was seen.
//!
//! [`cast`] is who plays, [`schedule`] which faults come, [`nemesis`] deals them and notes its
//! [`deeds`]; [`driver`] writes and keeps the [`journal`], [`reader`] looks and keeps what it
//! [`observe`]d; [`judge`] is pure. Nothing here knows how a promise is kept.

pub mod campaign;
pub mod cast;
pub mod clock;
pub mod deeds;
pub mod driver;
pub mod journal;
pub mod judge;
pub mod look;
pub mod nemesis;
pub mod observe;
pub mod part;
pub mod proxy;
pub mod random;
pub mod reader;
pub mod report;
pub mod restore;
pub mod schedule;
pub mod tally;
pub mod way;
