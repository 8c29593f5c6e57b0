//! The drain: a process that was asked to stop goes on serving for a set time, and says that it is not
//! ready.
//!
//! What routes requests (a load balancer, the endpoints of Kubernetes) learns of the end of a process
//! after the process does, and sends requests until then. A drain is as long as that takes. Nothing here
//! ends a task or knows HTTP: what is not ready any more, and which connections end, is decided by
//! those who ask [`Drain::has_begun`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::sleep;
use tracing::info;

use super::{
    settings::{SettingChecks, or},
    tasks::StopSignals,
};

/// Name of the setting.
pub const DRAIN_SECONDS: &str = "AURA_CONFIGURATION_DRAIN_SECONDS";
/// No drain: nothing routes requests to a service that a person starts.
const DEFAULT: &str = "0";
/// Longest drain, in seconds. The end that follows takes up to 15 s, and 2 s more where spans are
/// sent.
const LONGEST: u64 = 300;

/// The text of the setting, and its help.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DrainArgs {
    /// How long the service goes on serving after SIGTERM or SIGINT, in seconds, from 0 to 300.
    ///
    /// Meanwhile `/readyz` answers 503 and every answer closes its connection, so that a load balancer
    /// sends its requests elsewhere before the port is closed. Set it to the time that this takes. The
    /// end follows within 15 s, and 2 s more where spans are sent; a second signal begins it at once.
    #[arg(long, env = DRAIN_SECONDS, value_name = "SECONDS", default_value = DEFAULT)]
    drain_seconds: String,
}

impl DrainArgs {
    /// Checks the setting; `None` when an error was recorded.
    pub fn check(&self, checks: &mut SettingChecks) -> Option<Duration> {
        let given = or(&self.drain_seconds, DEFAULT);
        let seconds = given.parse().ok().filter(|seconds| *seconds <= LONGEST);
        let seconds = seconds.ok_or_else(|| format!("expected a whole number from 0 to {LONGEST}"));
        checks
            .check(DRAIN_SECONDS, given, seconds)
            .map(Duration::from_secs)
    }
}

/// The drain of one process. Clones share it; the default lasts no time.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    lasts: Duration,
    has_begun: Arc<AtomicBool>,
}

impl Drain {
    /// A drain of this length that has not begun.
    pub fn new(lasts: Duration) -> Self {
        Self {
            lasts,
            has_begun: Arc::default(),
        }
    }

    /// Whether the process was asked to stop.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Relaxed)
    }

    /// Begins the drain, and resolves when it is over. The caller then stops the tasks.
    pub async fn run(&self) {
        self.has_begun.store(true, Relaxed);
        if !self.lasts.is_zero() {
            let seconds = self.lasts.as_secs();
            info!(
                seconds,
                "asked to stop: the service is not ready any more, and serves for {seconds} s more"
            );
            sleep(self.lasts).await;
        }
    }

    /// Waits for a signal, drains, and resolves when the drain is over or a second signal ends it.
    pub async fn after(self, mut signals: StopSignals) {
        signals.received().await;
        tokio::select! {
            biased;
            () = self.run() => {}
            () = signals.received() => info!("asked to stop again: the drain ends"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::settings::SettingsError;

    fn read(text: &str) -> Result<Duration, SettingsError> {
        let mut checks = SettingChecks::default();
        let args = DrainArgs {
            drain_seconds: text.to_owned(),
        };
        let drain = args.check(&mut checks);
        checks.finish(drain)
    }

    #[test]
    fn a_drain_is_a_number_of_seconds_within_its_range() {
        for (text, seconds) in [("", 0), ("0", 0), ("5", 5), ("300", 300)] {
            assert_eq!(read(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["301", "-1", "5s", "0.5", "18446744073709551616"] {
            let SettingsError(errors) = read(text).expect_err(text);
            let expected =
                format!("{DRAIN_SECONDS}={text:?}: expected a whole number from 0 to 300");
            assert_eq!(errors, [expected]);
        }
    }

    #[tokio::test]
    async fn a_drain_has_begun_for_all_who_share_it_and_lasts_its_time() {
        let drain = Drain::new(Duration::from_millis(20));
        let seen = drain.clone();
        assert!(!seen.has_begun());
        let begun = std::time::Instant::now();
        drain.run().await;
        assert!(seen.has_begun() && begun.elapsed() >= drain.lasts);
    }
}
