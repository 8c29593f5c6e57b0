//! InstallKind what is missing comes: by pages of the change feed, and by a full load where those cannot
//! help.
//!
//! Only the loop in `sync` calls this, so there is one delta or one load at a time. A failure costs
//! nothing that is held.

use std::time::Instant;

use contract::Epoch;
use state::{Decision, InstallError, InstallKind, Installed, LoadId};

use crate::{
    OriginError, Replica,
    origin::{Cursor, Loaded, Page},
    sync::SyncError,
};

impl Replica {
    /// Brings what is missing in any collection; by a load when the feed no longer holds it.
    pub(crate) async fn heal(&self) -> Result<(), SyncError> {
        let view = self.view();
        let (Some(epoch), cursor) = (view.root().epoch(), view.root().gaps()) else {
            return self.load().await;
        };
        if cursor.is_empty() {
            return Ok(());
        }
        match self.delta(epoch, cursor).await {
            Err(SyncError::Origin(OriginError::Gone { reason, publisher })) => {
                match reason.as_deref() {
                    Some("trimmed") => {
                        tracing::info!(
                            "the log of {publisher} no longer holds what is missing here: a load follows"
                        );
                        self.load().await
                    }
                    // Another history, or an old copy: the check-in finds out which.
                    _ => self.check_in().await,
                }
            }
            // An older subscriber, which has no feed.
            Err(SyncError::Origin(OriginError::Refused { status: 404, .. })) => self.load().await,
            Err(SyncError::Origin(error @ OriginError::Unusable { .. })) => {
                tracing::warn!("a load follows: {error}");
                self.load().await
            }
            done => done,
        }
    }

    /// Page after page until nothing is missing, or the feed says that there is no more. The cursor
    /// is kept apart from the watermark: a change that waits for the rest of its set moves the
    /// one and not the other.
    async fn delta(&self, epoch: Epoch, mut cursor: Cursor) -> Result<(), SyncError> {
        let begun = Instant::now();
        let mut healed = 0;
        let mut page = self.origin().page(&cursor, epoch).await?;
        loop {
            for change in &page.changes {
                cursor.insert(change.collection.clone(), change.revision);
            }
            let view = self.view();
            cursor.retain(|name, at| {
                let Some(held) = view.root().collection(name) else {
                    return false;
                };
                // What came beyond a hole need not come again.
                *at = held.runs_on_to(*at);
                *at < held.known()
            });
            // The next one is on its way while this one is applied.
            let next = async {
                let more = page.more && !cursor.is_empty();
                if more {
                    self.origin().page(&cursor, epoch).await.map(Some)
                } else {
                    Ok(None)
                }
            };
            let (next, new) = tokio::join!(biased; next, async { self.apply_page(&page) });
            healed += new;
            match next? {
                Some(next) => page = next,
                None => break,
            }
        }
        let took = begun.elapsed().as_millis();
        tracing::debug!(
            healed,
            took_ms = took,
            "{healed} changes came by the feed in {took} ms"
        );
        Ok(())
    }

    /// One page is one swap: readers see all of it or nothing. Gives the number of changes that no
    /// event had brought.
    fn apply_page(&self, page: &Page) -> u64 {
        let new: Vec<bool> = self.write(|writer| {
            let is_new = |decision| {
                matches!(
                    decision,
                    Decision::Applied | Decision::Superseded | Decision::Staged
                )
            };
            page.changes
                .iter()
                .map(|change| is_new(writer.machine.apply_record(change)))
                .collect()
        });
        let mut journal = self.journal();
        journal.sync.pages += 1;
        let mut healed = 0;
        for (change, _new) in page.changes.iter().zip(new).filter(|(_change, new)| *new) {
            healed += 1;
            journal
                .arrivals
                .by_feed(&change.collection, change.revision);
        }
        journal.sync.changes += healed;
        healed
    }

    /// Loads all followed collections.
    pub(crate) async fn load(&self) -> Result<(), SyncError> {
        let generation = self.write(|writer| writer.machine.begin_load());
        let loaded = self.load_snapshot(generation).await;
        if loaded.is_err() {
            self.write(|writer| writer.machine.abandon_load(generation));
        }
        match loaded {
            Err(SyncError::Origin(OriginError::NoRevisions { .. }))
                if self.view().root().epoch().is_none() =>
            {
                self.load_lists().await
            }
            Err(
                SyncError::Install(refusal) | SyncError::Origin(OriginError::NotTaken(refusal)),
            ) => Err(self.refuse(refusal)),
            loaded => loaded,
        }
    }

    async fn load_snapshot(&self, generation: LoadId) -> Result<(), SyncError> {
        let asked = Instant::now();
        let Loaded {
            heads,
            snapshot,
            confirms,
        } = self.origin().snapshot(self.view().root()).await?;
        let epoch = heads
            .first()
            .map(|head| head.epoch.to_string())
            .unwrap_or_default();
        let Installed { how, resets } = self.write(|writer| {
            let installed = writer.machine.install(generation, snapshot)?;
            writer.read(Some(asked).filter(|_asked| confirms), heads);
            Ok::<_, InstallError>(installed)
        })?;
        let mut journal = self.journal();
        journal.sync.loads += 1;
        journal.sync.resets += resets as u64;
        if how == InstallKind::Replaced {
            journal.arrivals.clear();
        }
        drop(journal);
        let took = asked.elapsed().as_millis();
        match how {
            InstallKind::Replaced => {
                tracing::info!(epoch, took_ms = took, "loaded epoch {epoch} in {took} ms")
            }
            InstallKind::CaughtUp => {
                tracing::info!(epoch, took_ms = took, "caught up by a load in {took} ms")
            }
        }
        Ok(())
    }

    /// Loads the complete list of every collection: all that a publisher without revisions can be
    /// asked for.
    pub(crate) async fn load_lists(&self) -> Result<(), SyncError> {
        let asked = Instant::now();
        for collection in &self.config().collections {
            self.load_list(collection).await?;
        }
        self.write(|writer| writer.confirm(asked));
        Ok(())
    }

    pub(crate) fn refuse(&self, refusal: InstallError) -> SyncError {
        let reason = match refusal {
            InstallError::Superseded | InstallError::Behind(_) => None,
            InstallError::OtherStore(_) => Some("other-store"),
            InstallError::OlderEpoch(_) => Some("older-epoch"),
        };
        self.write(|writer| writer.refused = reason.or(writer.refused));
        refusal.into()
    }
}
