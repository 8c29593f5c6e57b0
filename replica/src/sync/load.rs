//! Loads: all documents of all followed collections, proven complete, installed in one step.
//!
//! A collection that no publisher serves, or gives whole, does not hold up the others. A failed load
//! costs nothing that is held. Only the loop calls this, so there is one load at a
//! time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use contract::{CollectionName, text::Escaped};
use state::{CollectionState, InstallError, InstallKind, LoadId};

use super::SyncError;
use crate::{
    Config, Follow, SourceError, View,
    cache::Cache,
    intake::{Stats, UnversionedIntake},
    source::{Loaded, PublisherSource},
};

/// How long a collection whose documents were refused is not asked for again: each attempt may read
/// all of it.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// The collections that the last load left out because no publisher gave all of their documents.
#[derive(Debug, Default)]
pub(crate) struct RefusedLoads {
    /// Each with what a publisher said.
    reasons: BTreeMap<CollectionName, String>,
    /// When they are asked for again.
    retry_at: Option<Instant>,
}

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
    /// What the last load left out.
    pub(crate) refused: Mutex<RefusedLoads>,
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

    /// Whether a collection was refused a moment ago, so that it is not asked for now.
    pub(super) fn is_held_back(&self, name: &CollectionName) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.reasons.contains_key(name) && refused.retry_at.is_some_and(|at| Instant::now() < at)
    }

    /// Whether a collection was refused by the last load, and is still not what the publishers have.
    fn is_refused(&self, name: &CollectionName) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.reasons.contains_key(name)
    }

    /// Whether a load is due: for a collection that a publisher may serve, that is not loaded, has
    /// diverged, or was refused while changes of it were missing; and that is not held back.
    pub(super) fn is_due(&self) -> bool {
        let missing = self.missing(&self.cache.view());
        if !missing.iter().any(|name| self.is_refused(name)) {
            // Events or the feed brought what was left out.
            self.note_refused(BTreeMap::new());
        }
        missing.iter().any(|name| !self.is_held_back(name))
    }

    /// The served collections that only a load makes whole, as far as is known.
    fn missing(&self, view: &View) -> Vec<CollectionName> {
        let of_load = |name: &CollectionName, held: &CollectionState| {
            let gap = view.gaps.contains_key(name) && self.is_refused(name);
            view.is_served(name) && (!held.loaded() || held.diverged() || gap)
        };
        let collections = view.root().collections();
        collections
            .filter(|(name, held)| of_load(name, held))
            .map(|(name, _held)| name.clone())
            .collect()
    }

    /// Asks for the collections that the last load left out, each by itself, where a load could bring
    /// nothing else. Returns whether all of them are refused again: then a load is not worth it.
    async fn refused_again(&self) -> bool {
        let view = self.cache.view();
        let missing = self.missing(&view);
        if missing.is_empty() || !missing.iter().all(|name| self.is_refused(name)) {
            return false;
        }
        let mut reasons = BTreeMap::new();
        for name in missing {
            let Ok(Some(refusal)) = self.source.refusal_of(view.root(), &name).await else {
                return false;
            };
            reasons.insert(name.clone(), format!("{name} cannot be loaded: {refusal}"));
        }
        self.note_refused(reasons);
        true
    }

    /// Notes what a load left out, for the state of the replica and for the next load.
    fn note_refused(&self, reasons: BTreeMap<CollectionName, String>) {
        self.stats
            .set_refused_load(reasons.values().next().cloned());
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        for (collection, reason) in &reasons {
            if !refused.reasons.contains_key(collection) {
                let reason = Escaped(reason);
                tracing::warn!(%collection, "the replica goes on without a load of {collection} and asks for it again: {reason}");
            }
        }
        *refused = RefusedLoads {
            reasons,
            retry_at: Some(Instant::now() + REFUSED_FOR),
        };
    }

    /// Loads what only a load makes whole; see [`Self::is_due`].
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(super) async fn load_missing(&self) -> Result<(), SyncError> {
        if self.refused_again().await {
            Ok(())
        } else {
            self.load().await
        }
    }

    /// Loads all followed collections: by a snapshot, or by lists where the publisher counts no
    /// revisions and nothing with revisions is held. A collection that no publisher gives whole does
    /// not hold up the others: it is left out, shown as the last error, and asked for again later.
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
            refused,
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
        self.note_refused(refused);
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
