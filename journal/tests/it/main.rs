//! The journal with a real Redis and a real MongoDB.

#[path = "../../examples/bank/account.rs"]
mod account;
mod appends;
mod bank;
mod dead_letters;
mod projection;
mod servers;
mod testbed;

type Outcome = anyhow::Result<()>;
