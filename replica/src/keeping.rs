//! When the last known good is read and written.
//!
//! It is read once, before the first load, and written at most every half minute and at the end. A
//! disk that fails costs a warning and nothing else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use contract::{CollectionName, Digest, Epoch, Revision};
use state::image::ImageMeta;
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{Replica, View, disk::Disk};

/// Shortest time between two writes, in seconds; replicas that started together drift apart.
const WRITE_EVERY: std::ops::Range<f64> = 22.5..30.0;
/// How long what was read from disk may catch up before it is served as it is.
const CATCH_UP: Duration = Duration::from_secs(2);

/// What tells one state of a replica from another.
type Mark = (
    Option<Epoch>,
    Vec<(CollectionName, Revision, usize, Digest)>,
);

impl Replica {
    /// Takes what is on disk. Readers do not see it yet.
    pub(crate) async fn recall(&self) {
        let Some(disk) = self.disk().cloned() else {
            return;
        };
        let image = match blocking(move || disk.read()).await {
            Ok(Some(image)) => image,
            Ok(None) => return,
            Err(error) => {
                return tracing::warn!("the last known good cannot be read from disk: {error}");
            }
        };
        let notes = image.notes().clone();
        self.journal().cursors = notes.cursors;
        self.write(|writer| {
            writer.opened = false;
            writer.recalled = true;
            writer.kept = notes.confirmed_ms;
            writer.machine.restore(image);
        });
    }

    /// Tries for a moment to bring up to date what came from disk, then lets readers see it.
    pub(crate) async fn catch_up(&self) {
        if self.view().opened {
            return;
        }
        if let Ok(Err(error)) = timeout(CATCH_UP, self.once_in_step()).await {
            tracing::debug!("what was read from disk could not catch up yet: {error}");
        }
        self.write(|writer| writer.opened = true);
        let (view, instance) = (self.view(), &self.config().instance);
        let state = view.state(Instant::now());
        tracing::info!(
            state = state.as_str(),
            "{instance} serves its last known good, {}",
            state.as_str()
        );
    }

    async fn once_in_step(&self) -> Result<(), crate::sync::SyncError> {
        self.check_in().await?;
        if self.view().lacking.is_empty() {
            Ok(())
        } else {
            self.heal().await
        }
    }

    /// Writes what is held whenever it has changed, at most every half minute, for ever.
    pub(crate) async fn keep(&self) {
        let Some(disk) = self.disk() else {
            return std::future::pending().await;
        };
        let mut kept = None;
        loop {
            sleep(Duration::from_secs_f64(rand::random_range(WRITE_EVERY))).await;
            self.save(disk, &mut kept).await;
        }
    }

    /// Writes what is held, at the end.
    pub(crate) async fn keep_last(&self) {
        if let Some(disk) = self.disk() {
            self.save(disk, &mut None).await;
        }
    }

    async fn save(&self, disk: &Disk, kept: &mut Option<Mark>) {
        // In this order: what stands before a cursor is in the view.
        let cursors = self.journal().cursors.clone();
        let view = self.view();
        let mark = mark(&view);
        if !view.root().loaded() || view.root().epoch().is_none() || kept.as_ref() == Some(&mark) {
            return;
        }
        let notes = ImageMeta {
            confirmed_ms: confirmed_at(&view),
            cursors,
        };
        let disk = disk.clone();
        match blocking(move || disk.write(view.root(), &notes)).await {
            Ok(()) => *kept = Some(mark),
            Err(error) => tracing::warn!("the last known good cannot be written to disk: {error}"),
        }
    }
}

fn mark(view: &Arc<View>) -> Mark {
    let collections = view.root().collections();
    let rows = collections.map(|(name, held)| {
        (
            name.clone(),
            held.watermark(),
            held.ranges_beyond(),
            held.digest(),
        )
    });
    (view.root().epoch(), rows.collect())
}

/// When a publisher last confirmed what is held, by the wall clock: the only one that outlives the
/// process.
fn confirmed_at(view: &View) -> Option<i64> {
    let ago = view
        .confirmed(Instant::now())
        .and_then(|ago| TimeDelta::from_std(ago).ok());
    ago.map(|ago| (Utc::now() - ago).timestamp_millis())
        .or(view.kept)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
}
