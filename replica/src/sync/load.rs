//! Loads: all documents of all followed collections, proven complete, installed in one step.
//!
//! A failed load costs nothing that is held. Only the loop calls this, so there is one load at a
//! time.

use std::{sync::Arc, time::Instant};

use contract::CollectionName;
use state::{InstallError, InstallKind, LoadId};

use super::SyncError;
use crate::{
    Config, Follow, SourceError,
    cache::Cache,
    intake::{Stats, UnversionedIntake},
    source::{Loaded, PublisherSource},
};

/// Loads documents from the publishers.
#[derive(Debug)]
pub(crate) struct Loader {
    /// Which collections are followed where the publisher cannot say which it serves.
    pub(crate) config: Arc<Config>,
    /// Where what was loaded is installed.
    pub(crate) cache: Arc<Cache>,
    /// Where snapshots are read.
    pub(crate) source: Arc<PublisherSource>,
    /// Counts loads.
    pub(crate) stats: Arc<Stats>,
    /// Loads lists where there are no snapshots.
    pub(crate) unversioned: Arc<UnversionedIntake>,
}

impl Loader {
    /// Follows what the publishers serve, if that is wanted and nothing is followed yet. A publisher
    /// without revisions has no list of its collections; those of the configuration are followed.
    /// Returns whether a collection is followed.
    ///
    /// # Errors
    /// When no publisher gave a usable answer.
    pub(super) async fn discover(&self) -> Result<bool, SyncError> {
        let before = self.cache.view();
        // What was found out before counts only once it is loaded: the answer may have been of
        // another service.
        if self.config.follow == Follow::Served
            && before
                .root()
                .collections()
                .all(|(_name, held)| !held.loaded())
        {
            let served = match self.source.served().await {
                Err(error) if error.is_unversioned() => self.config.collections.clone(),
                served => served.map_err(SourceError::from)?,
            };
            let known = before.root().collections().map(|(name, _held)| name);
            if !known.eq(&served) {
                let names = listed(&served);
                tracing::info!("the replica follows what its publisher serves: {names}");
                self.cache.follow(&served);
            }
        }
        Ok(self.config.follow == Follow::Named
            || self.cache.view().root().collections().next().is_some())
    }

    /// Loads all followed collections: by a snapshot, or by lists where the publisher counts no
    /// revisions and nothing with revisions is held.
    ///
    /// # Errors
    /// When no publisher gave a complete answer, or its store is refused.
    pub(super) async fn load(&self) -> Result<(), SyncError> {
        let load = self.cache.begin_load();
        let loaded = self.load_snapshot(load).await;
        // Deletions are remembered while a load is under way, and need not be any longer.
        if loaded.is_err() {
            self.cache.abandon_load(load);
        }
        match loaded {
            Err(SyncError::Source(SourceError::Client(error)))
                // A replica that holds revisions never gives them up for a list without any.
                if error.is_unversioned() && self.cache.view().root().epoch().is_none() =>
            {
                self.load_lists().await
            }
            Err(SyncError::Install(refusal) | SyncError::Source(SourceError::Install(refusal))) => {
                Err(self.refused(refusal))
            }
            loaded => loaded,
        }
    }

    /// Loads and installs a snapshot for a load that began. Before a failure is returned the caller
    /// ends the load.
    async fn load_snapshot(&self, load: LoadId) -> Result<(), SyncError> {
        let requested_at = Instant::now();
        let Loaded {
            heads,
            snapshot,
            confirms,
            unserved,
        } = self.source.snapshot(self.cache.view().root()).await?;
        let epoch = heads
            .first()
            .map(|head| head.epoch.to_string())
            .unwrap_or_default();
        let known = self.cache.view();
        for (collection, reason) in &unserved {
            // It is known while no heads of the collection come.
            if !known.unserved.contains_key(collection) {
                tracing::warn!(%collection, "the replica loads without {collection} and goes on: {reason}");
            }
        }
        // Before what is installed confirms the others.
        self.cache.note_unserved(unserved);
        let installed =
            self.cache
                .install(load, snapshot, heads, confirms.then_some(requested_at))?;
        self.stats.installed(&installed);
        let took_ms = requested_at.elapsed().as_millis();
        match installed.how {
            InstallKind::Replaced => {
                tracing::info!(
                    epoch,
                    took_ms,
                    "the replica loaded all documents of epoch {epoch} in {took_ms} ms"
                );
            }
            InstallKind::CaughtUp => {
                tracing::info!(
                    epoch,
                    took_ms,
                    "the replica caught up by a load of epoch {epoch} in {took_ms} ms"
                );
            }
        }
        Ok(())
    }

    /// Loads the complete list of every collection: nothing else can be asked of a publisher that
    /// counts no revisions.
    ///
    /// # Errors
    /// When a list could not be read. The lists before it stay.
    async fn load_lists(&self) -> Result<(), SyncError> {
        let requested_at = Instant::now();
        let view = self.cache.view();
        for (collection, _held) in view.root().collections() {
            self.unversioned.load_list(collection).await?;
        }
        // Only after all lists: what is confirmed is confirmed for every collection.
        self.cache.confirm(requested_at);
        Ok(())
    }

    /// Notes why the store of the publisher is refused, for the state of the replica.
    /// Gives the error of the load.
    pub(super) fn refused(&self, refusal: InstallError) -> SyncError {
        match refusal {
            InstallError::OtherStore(_) => self.cache.refuse("other-store"),
            InstallError::OlderEpoch(_) => self.cache.refuse("older-epoch"),
            // The next attempt may be accepted.
            InstallError::Superseded | InstallError::Behind(_) => {}
        }
        refusal.into()
    }
}

/// Names for a log line.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a CollectionName>) -> String {
    let names: Vec<&str> = names.into_iter().map(CollectionName::as_str).collect();
    names.join(", ")
}
