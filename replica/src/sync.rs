//! The loop that loads, compares and heals. Events make a replica fast; this makes it right.
//!
//! It is the only one that loads snapshots, so there is one load at a time. It never ends by itself, and a failure never
//! costs anything that is held.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use contract::Head;
use state::{Generation, Installed, NotInstalled, Root};
use tokio::time::sleep_until;

use crate::{OriginError, Replica, view::GRACE};

/// How much of the check-in interval passes between two readings. Replicas that started together drift apart.
const CHECK_IN_SHARE: std::ops::Range<f64> = 0.75..1.0;
/// Wait after a failure, in seconds.
const BACKOFF: std::ops::Range<f64> = 0.5..1.0;
/// Longest wait that a publisher can ask for.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Readings that events of another history lead to are at least this far apart.
const OTHER_EPOCH_GAP: Duration = Duration::from_secs(5);

/// Why a reading did not bring the replica into step.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("what the publisher offers is not taken: {0}")]
    NotInstalled(#[from] NotInstalled),
}

impl Replica {
    /// Loads, then follows the publishers until `stop` resolves. Run it once; dropping it is safe at any moment.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let mut due = Instant::now();
        let mut not_before = due;
        let mut last_reading: Option<Instant> = None;
        loop {
            let heal = self.view().lacking_since().map(|since| (since + GRACE).max(not_before));
            tokio::select! {
                // In this order, so that everything asked for until now is answered by the same reading.
                biased;
                // A new gap: its grace is awaited.
                () = self.asked().gap.notified() => continue,
                () = self.asked().reading.notified() => {
                    due = due.min(not_before);
                    continue;
                }
                () = self.asked().other_epoch.notified() => {
                    due = due.min(last_reading.map_or(not_before, |last| last + OTHER_EPOCH_GAP).max(not_before));
                    continue;
                }
                () = sleep_until(heal.map_or(due, |heal| heal.min(due)).into()) => {}
            }
            let now = Instant::now();
            let result = if now >= due {
                last_reading = Some(now);
                let read = self.read().await;
                due = Instant::now() + self.config().check_in.mul_f64(rand::random_range(CHECK_IN_SHARE));
                read
            } else if self.view().lacking_since().is_some_and(|since| now >= since + GRACE) {
                let loaded = self.load().await;
                if loaded.is_ok() && self.view().lacking_since().is_some_and(|since| since < now) {
                    // What is lacking was not there to be loaded, so asking on and on brings nothing.
                    not_before = due;
                }
                loaded
            } else {
                continue;
            };
            if let Err(error) = &result {
                not_before = Instant::now() + backoff(error);
                due = not_before;
            }
            self.note(&result);
        }
    }

    /// Reads the heads; loads when they are in a newer history, or when nothing is held yet.
    async fn read(&self) -> Result<(), SyncError> {
        let view = self.view();
        let root = view.root();
        if !root.loaded() {
            return self.load().await;
        }
        let asked = Instant::now();
        let heads = match self.origin().heads(root).await {
            Err(OriginError::NoRevisions { .. }) if root.epoch().is_none() => return self.load_lists().await,
            heads => heads?,
        };
        if let Err(refusal) = admissible(root, &heads) {
            return Err(self.refuse(refusal));
        }
        if self.write(|writer| writer.read(asked, heads)) { self.load().await } else { Ok(()) }
    }

    /// Loads all followed collections.
    async fn load(&self) -> Result<(), SyncError> {
        let generation = self.write(|writer| writer.machine.begin_load());
        let loaded = self.load_snapshot(generation).await;
        if loaded.is_err() {
            self.write(|writer| writer.machine.abandon_load(generation));
        }
        match loaded {
            Err(SyncError::Origin(OriginError::NoRevisions { .. })) if self.view().root().epoch().is_none() => {
                self.load_lists().await
            }
            Err(SyncError::NotInstalled(refusal)) => Err(self.refuse(refusal)),
            loaded => loaded,
        }
    }

    async fn load_snapshot(&self, generation: Generation) -> Result<(), SyncError> {
        let asked = Instant::now();
        let (heads, snapshot) = self.origin().snapshot(self.view().root()).await?;
        let epoch = heads.first().map(|head| head.epoch.to_string()).unwrap_or_default();
        let installed = self.write(|writer| {
            let installed = writer.machine.install(generation, snapshot)?;
            writer.read(asked, heads);
            Ok::<_, NotInstalled>(installed)
        })?;
        let took = asked.elapsed().as_millis();
        match installed {
            Installed::Replaced => tracing::info!(epoch, took_ms = took, "loaded epoch {epoch} in {took} ms"),
            Installed::Caught => tracing::info!(epoch, took_ms = took, "caught up by a load in {took} ms"),
        }
        Ok(())
    }

    /// Loads the complete list of every collection: all that a publisher without revisions can be asked for.
    async fn load_lists(&self) -> Result<(), SyncError> {
        let asked = Instant::now();
        for collection in &self.config().collections {
            self.load_list(collection).await?;
        }
        self.write(|writer| writer.confirm(asked));
        Ok(())
    }

    fn refuse(&self, refusal: NotInstalled) -> SyncError {
        let reason = match refusal {
            NotInstalled::Voided => None,
            NotInstalled::OtherStore(_) => Some("other-store"),
            NotInstalled::OlderEpoch(_) => Some("older-epoch"),
        };
        self.write(|writer| writer.refused = reason.or(writer.refused));
        refusal.into()
    }

    /// Logs a failure when it is new, and its end.
    fn note(&self, result: &Result<(), SyncError>) {
        let error = result.as_ref().err().map(ToString::to_string);
        let mut journal = self.journal();
        match (&journal.last_error, &error) {
            (last, Some(error)) if last.as_ref() != Some(error) => tracing::warn!("out of step: {error}"),
            (_same, Some(error)) => tracing::debug!("still out of step: {error}"),
            (Some(_last), None) => tracing::info!("in step again"),
            (None, None) => {}
        }
        journal.last_error = error;
    }
}

/// NeverEmpty, before anything is loaded: another store, or a history that was left, offers nothing to load.
fn admissible(root: &Root, heads: &[Head]) -> Result<(), NotInstalled> {
    let Some(ours) = root.epoch() else { return Ok(()) };
    match heads.iter().map(|head| head.epoch).find(|epoch| *epoch != ours) {
        Some(theirs) if theirs.lineage != ours.lineage => Err(NotInstalled::OtherStore(theirs)),
        Some(theirs) if theirs.counter < ours.counter => Err(NotInstalled::OlderEpoch(theirs)),
        _ => Ok(()),
    }
}

fn backoff(error: &SyncError) -> Duration {
    let asked = match error {
        SyncError::Origin(error) => error.retry_after().unwrap_or_default(),
        SyncError::NotInstalled(_) => Duration::ZERO,
    };
    Duration::from_secs_f64(rand::random_range(BACKOFF)).max(asked.min(MAX_BACKOFF))
}
