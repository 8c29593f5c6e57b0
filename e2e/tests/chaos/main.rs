//! A short fault campaign with every transport: `make chaos` runs a longer one.
//!
//! A test target of its own, so that no other test uses the processor meanwhile. The seed is new
//! each time and is part of every failure; `SEED` repeats it.

use std::time::{SystemTime, UNIX_EPOCH};

use e2e::{
    chaos::campaign::{self, Options, Progress},
    testbed::Transport,
};

struct Lines;

impl Progress for Lines {
    #[expect(clippy::print_stdout, reason = "a failed test shows what was done")]
    fn say(&self, line: &str) {
        println!("{line}");
    }

    fn fault(&self) {}
}

async fn campaign(faults: usize, transport: Transport) -> anyhow::Result<()> {
    let random = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64 % 1_000_000_000;
    let seed = std::env::var("SEED")
        .ok()
        .map_or(Ok(random), |seed| seed.parse())?;
    campaign::run(
        &Options {
            faults,
            seed,
            rate: 60,
            transport,
        },
        &Lines,
    )
    .await?
    .check()
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_keep_their_guarantees_under_random_faults() -> anyhow::Result<()> {
    // One test, because two campaigns at once would disturb each other.
    campaign(30, Transport::Dapr).await?;
    campaign(20, Transport::PubSub).await?;
    campaign(20, Transport::Streams).await?;
    campaign(15, Transport::Feed).await?;
    campaign(20, Transport::Local).await
}
