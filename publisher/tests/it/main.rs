//! A publisher as a service embeds it: through its public interface only, with an embedded store
//! and one subscriber.

mod browsers;
mod faults;
mod http;
mod mongo;
mod spans;
mod testbed;
mod unit_of_work;
mod values;

type Outcome = anyhow::Result<()>;
