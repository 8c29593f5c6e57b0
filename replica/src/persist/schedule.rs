//! When the last known good configuration is read and written.
//!
//! It is read once, before the first load, and written at most every half minute and at the end.
//! How it is stored is in `file`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use contract::{CollectionName, Digest, Epoch, Revision};
use state::image::ImageMeta;
use tokio::{task::spawn_blocking, time::sleep};

use super::{StreamCursors, file::ImageFile};
use crate::{Follow, View, cache::Cache};

/// Shortest time between two writes, in seconds; replicas that started together drift apart.
const WRITE_EVERY: std::ops::Range<f64> = 22.5..30.0;

/// Tells one content of a replica from another.
/// By collection: watermark, ranges beyond it, and digest of all documents.
type Fingerprint = (
    Option<Epoch>,
    Vec<(CollectionName, Revision, usize, Digest)>,
);

/// The copy on disk, for the metrics of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyOnDisk {
    /// Time since the copy had all that the replica held. `None` until this process has written one.
    pub age: Option<Duration>,
    /// Whether the last attempt to write it failed. It is tried again every half minute.
    pub failed: bool,
}

/// What became of the attempts to write the copy.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// When the copy had all that the replica held.
    complete: Option<Instant>,
    failed: bool,
}

/// Saves the configuration on disk and restores it, if there is a directory for it.
#[derive(Debug)]
pub(crate) struct Persistence {
    /// What is saved, and where an image is restored to.
    pub(crate) cache: Arc<Cache>,
    /// Whether the collections of an image are followed because it has them.
    pub(crate) follow: Follow,
    /// The positions in the streams of events. They are saved with the documents.
    pub(crate) cursors: Arc<StreamCursors>,
    /// The file; `None` when the configuration names no directory.
    pub(crate) file: Option<ImageFile>,
    /// What became of it.
    pub(crate) attempts: Mutex<Attempts>,
}

impl Persistence {
    /// Restores what is on disk. Readers do not see it yet.
    /// A disk that cannot be read is logged, and the replica starts without an image.
    pub(crate) async fn restore(&self) {
        let Some(file) = self.file.clone() else {
            return;
        };
        let folder = file.folder();
        let image = match blocking(move || file.read()).await {
            Ok(Some(image)) => image,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(
                    "the last known good configuration cannot be read from the folder {folder} \
                     (AURA_CONFIGURATION_SNAPSHOT_DIR), the replica starts without it: {error}"
                );
                return;
            }
        };
        let meta = image.meta().clone();
        self.cursors.restore(meta.cursors);
        if self.follow == Follow::Served {
            // What was served before counts until a publisher answers.
            self.cache.follow(&image.collections().cloned().collect());
        }
        self.cache.restore(image, meta.confirmed_ms);
    }

    /// Saves the configuration whenever it has changed, at most every half minute. It never ends.
    pub(crate) async fn run(&self) {
        let Some(file) = &self.file else {
            return std::future::pending().await;
        };
        // This process has written nothing yet, so its first write always happens.
        let mut saved = None;
        loop {
            sleep(Duration::from_secs_f64(rand::random_range(WRITE_EVERY))).await;
            self.save(file, &mut saved).await;
        }
    }

    /// Saves the configuration at the end of the process.
    /// In any case, also when it did not change: the confirmation is newer.
    pub(crate) async fn save_last(&self) {
        if let Some(file) = &self.file {
            self.save(file, &mut None).await;
        }
    }

    /// The copy on disk; `None` where there is no directory for it.
    pub(crate) fn copy_on_disk(&self) -> Option<CopyOnDisk> {
        self.file.as_ref()?;
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        Some(CopyOnDisk {
            age: attempts.complete.map(|at| at.elapsed()),
            failed: attempts.failed,
        })
    }

    fn note(&self, saved_at: Option<Instant>) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.failed = saved_at.is_none();
        attempts.complete = saved_at.or(attempts.complete);
    }

    /// Saves the configuration, if it is worth it and not saved already. A failure is logged; the
    /// next call tries again.
    async fn save(&self, file: &ImageFile, saved: &mut Option<Fingerprint>) {
        // In this order: what was read before a cursor is in the view.
        let cursors = self.cursors.snapshot();
        let view = self.cache.view();
        let current = fingerprint(&view);
        let begun = Instant::now();
        // Without an epoch nothing tells whether an image is older than what a publisher offers.
        // A collection that is not loaded is not in the image and does not keep the others out.
        if view.root().epoch().is_none() {
            return;
        }
        if saved.as_ref() == Some(&current) {
            return self.note(Some(begun));
        }
        let meta = ImageMeta {
            confirmed_ms: confirmed_at(&view),
            cursors,
        };
        let (file, folder) = (file.clone(), file.folder());
        match blocking(move || file.write(view.root(), &meta)).await {
            Ok(()) => {
                *saved = Some(current);
                self.note(Some(begun));
            }
            Err(error) => {
                self.note(None);
                tracing::error!(
                    "the last known good configuration cannot be written to the folder {folder} \
                     (AURA_CONFIGURATION_SNAPSHOT_DIR), a start without publishers would lack the \
                     changes since the copy there, if there is one: {error}"
                );
            }
        }
    }
}

/// What tells this content from another: the revisions, what is held beyond them, and a digest.
fn fingerprint(view: &View) -> Fingerprint {
    let rows = view.root().collections().map(|(name, held)| {
        (
            name.clone(),
            held.watermark(),
            held.ranges_beyond(),
            held.digest(),
        )
    });
    (view.root().epoch(), rows.collect())
}

/// When a publisher last confirmed what is held, by the wall clock: the only clock that outlives the
/// process.
fn confirmed_at(view: &View) -> Option<i64> {
    view.confirmed(Instant::now())
        .and_then(|ago| TimeDelta::from_std(ago).ok())
        .map(|ago| (Utc::now() - ago).timestamp_millis())
        .or(view.saved_confirmed_ms)
}

/// Runs work that blocks on a thread for that. A panic of the work is an error.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
}
