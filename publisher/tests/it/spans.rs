//! A write is one span, from its request until its event is published.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use publisher::embed::Context;
use tokio::time::{sleep, timeout};
use tracing_subscriber::fmt::MakeWriter;

use super::{
    Outcome,
    testbed::{AGENTS, SKILLS, create, with_publisher},
};

/// The log lines of all tests in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Waits for a line with all of these parts.
    async fn line(&self, parts: &[&str]) -> anyhow::Result<()> {
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

    fn text(&self) -> String {
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

#[tokio::test]
async fn commit_and_publication_of_a_write_are_inside_its_span() -> Outcome {
    let log = Log::default();
    // A subscriber of one thread is not reliable while other tests run in other threads: which
    // events are enabled is remembered for the whole process.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("off,publisher=debug")
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber)?;
    with_publisher(&[], async |testbed| {
        let mut unit = testbed.changes.unit(Context::default());
        unit.publish(create(SKILLS, "in-a-span")).await?;
        let span = "write{collection=Skills id=in-a-span revision=1}";
        log.line(&[span, "a change is committed"]).await?;
        log.line(&[span, "the event of a change is published"])
            .await?;

        unit.publish_batch_after_commit([create(SKILLS, "a"), create(AGENTS, "b")]);
        let set = unit.commit().await?;
        let span = format!("write{{set=\"{}\" changes=2}}", set.id);
        for id in ["id=a", "id=b"] {
            log.line(&[&span, "a change is committed", id]).await?;
            log.line(&[&span, "the event of a change is published", id])
                .await?;
        }
        Ok(())
    })
    .await
}
