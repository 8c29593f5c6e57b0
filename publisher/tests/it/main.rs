//! A publisher as a service embeds it: through its public interface only, with an embedded store
//! and one subscriber.

mod access;
mod audit;
mod browsers;
mod credentials;
mod dead_letters;
mod faults;
#[path = "../../../service/tests/file_settings/mod.rs"]
mod file_settings;
mod fresh;
mod http;
mod id_only;
#[path = "../../../service/tests/life/mod.rs"]
mod life;
mod limits;
mod local;
mod log;
mod mongo;
mod past;
mod references;
mod refused_load;
mod repairs;
mod served;
mod spans;
mod starts;
mod testbed;
mod unit_of_work;
mod values;
#[path = "../../../service/tests/wire/mod.rs"]
mod wire;

type Outcome = anyhow::Result<()>;
