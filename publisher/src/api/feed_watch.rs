//! Where the collections stand, read once for everybody who follows the feed live.
//!
//! A commit of this publisher has the heads read at once, a poll finds what others committed. While
//! nobody follows nothing is read. It holds heads only: the changes are read from the log by each
//! stream, at the pace of its reader.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contract::{CollectionName, Head};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::Store;

/// What other publishers commit is seen after this.
const POLL: Duration = Duration::from_millis(500);

/// One reading of all heads. Those that follow each other were asked for one after the other.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    number: u64,
    /// The heads; `None` when the store did not tell.
    pub heads: Option<Arc<[Head]>>,
}

/// Where streams hear of new heads. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Feed(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    readings: watch::Sender<Reading>,
    /// Number of the reading that was begun last.
    begun: AtomicU64,
    wake: Notify,
}

impl Feed {
    /// Something was committed here.
    pub fn wake(&self) {
        if self.0.readings.receiver_count() > 0 {
            self.0.wake.notify_one();
        }
    }

    /// Readings from now on, and the first of them: it was asked for after this was called.
    pub async fn follow(&self) -> (watch::Receiver<Reading>, Reading) {
        let mut readings = self.0.readings.subscribe();
        let first = self.0.begun.load(Ordering::SeqCst) + 1;
        self.0.wake.notify_one();
        let reading = readings.wait_for(|reading| reading.number >= first).await;
        let reading = reading.map(|reading| reading.clone()).unwrap_or_default();
        (readings, reading)
    }

    /// Reads the heads of these collections whenever somebody wants to know, until it is told to
    /// stop.
    ///
    /// # Errors
    /// Never; the signature is the supervisor's.
    pub async fn run(
        self,
        store: Store,
        collections: BTreeSet<CollectionName>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let Shared {
            readings,
            begun,
            wake,
        } = &*self.0;
        let mut fails = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    // Whoever has just begun to follow is told as well.
                    readings.send_replace(Reading { number: u64::MAX, heads: None });
                    return Ok(());
                }
                () = wake.notified() => {}
                () = sleep(POLL), if readings.receiver_count() > 0 => {}
            }
            let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
            let heads = match store.heads(&collections).await {
                Ok(heads) => {
                    if std::mem::take(&mut fails) {
                        info!("the feed goes on");
                    }
                    Some(heads.into())
                }
                Err(error) => {
                    if !std::mem::replace(&mut fails, true) {
                        warn!("the feed stands still, the heads cannot be read: {error:#}");
                    }
                    None
                }
            };
            readings.send_replace(Reading { number, heads });
        }
    }
}
