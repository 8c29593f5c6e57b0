//! The log of the tests in this process: one for all of them, because a subscriber of one thread is
//! not reliable while other tests run in other threads. Which events are enabled is remembered for
//! the whole process.

use std::{
    io,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tracing_subscriber::fmt::MakeWriter;

/// The log of this process, which begins with the first call.
pub(super) fn log() -> &'static Log {
    static LOG: LazyLock<Log> = LazyLock::new(|| {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("off,publisher=debug")
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("no other subscriber");
        log
    });
    &LOG
}

/// The log lines of all tests in this process.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Waits for a line with all of these parts.
    pub(super) async fn line(&self, parts: &[&str]) -> anyhow::Result<()> {
        let found = async {
            while !self
                .text()
                .lines()
                .any(|line| parts.iter().all(|part| line.contains(part)))
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), found)
            .await
            .map_err(|_elapsed| anyhow::anyhow!("no line with {parts:?} in\n{}", self.text()))
    }

    pub(super) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
