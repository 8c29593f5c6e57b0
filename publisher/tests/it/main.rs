//! A publisher as a service embeds it: through its public API only, with an embedded store and a
//! subscriber of its own.

mod faults;
mod stage;
mod unit;

type Outcome = anyhow::Result<()>;
