//! Catch-up: missing changes come by pages of the change feed, and by a load where the feed no
//! longer holds them.
//!
//! Only the loop calls this, so there is one catch-up at a time. A failure costs nothing that is
//! held.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use client::ClientError;
use contract::{CollectionName, Epoch};

use super::{CheckIns, Loader, SyncError, SyncSignals};
use crate::{
    SourceError,
    cache::Cache,
    change_traces::ChangeTraces,
    intake::Stats,
    source::{Cursor, Page, PublisherSource},
};

/// Brings missing changes.
#[derive(Debug)]
pub(crate) struct CatchUp {
    /// Makes the spans of pages, where a change has a trace.
    pub(crate) traces: Arc<ChangeTraces>,
    /// What is held, and where pages are applied.
    pub(crate) cache: Arc<Cache>,
    /// Where pages are read.
    pub(crate) source: Arc<PublisherSource>,
    /// Counts pages and changes.
    pub(crate) stats: Arc<Stats>,
    /// Loads where the feed cannot help.
    pub(crate) loader: Arc<Loader>,
    /// Finds out which history the publisher is in.
    pub(crate) check_ins: Arc<CheckIns>,
    /// Which collections have a change that an event did not describe.
    pub(crate) signals: Arc<SyncSignals>,
}

impl CatchUp {
    /// Brings what is missing in any collection, and what is new in those of id-only events.
    ///
    /// # Errors
    /// When no publisher gave a usable answer, or its store is refused. What came until then stays.
    pub(super) async fn catch_up(&self) -> Result<(), SyncError> {
        let view = self.cache.view();
        let Some(epoch) = view.root().epoch() else {
            // Nothing is held that a feed could continue from.
            return self.loader.load().await;
        };
        let mut cursor = view.root().gaps();
        // Before the request: an event after that leads to another catch-up.
        let mut changed = self.signals.take_changed();
        changed.retain(|name| {
            let held = view.root().collection(name);
            let watermark = held
                .filter(|held| held.loaded() && held.versioned())
                .map(|held| held.watermark());
            watermark.is_some_and(|watermark| {
                cursor.entry(name.clone()).or_insert(watermark);
                true
            })
        });
        // A publisher refuses the feed of several collections for one that it does not serve.
        // What a load was refused a moment ago does not hold up the others.
        cursor.retain(|name, _revision| view.is_served(name) && !self.loader.is_held_back(name));
        // An event closed the gap meanwhile.
        if cursor.is_empty() {
            return Ok(());
        }
        // Two requests at once are much state, which the task of the loop would have on its stack.
        match Box::pin(self.read_feed(epoch, cursor, &mut changed)).await {
            Err(SourceError::Client(error)) => self.without_feed(error).await,
            result => {
                // An event that came twice, or before its change: the heads tell which.
                if result.is_ok() && !changed.is_empty() {
                    self.signals.request_check_in();
                }
                Ok(result?)
            }
        }
    }

    /// What is done when the feed gave no page: a load where it can help.
    ///
    /// # Errors
    /// The error itself where nothing else can help, or that of the load or check-in.
    async fn without_feed(&self, error: ClientError) -> Result<(), SyncError> {
        match &error {
            ClientError::Refused(refusal) if refusal.status == 410 => {
                let Some(problem) = &refusal.problem else {
                    // Without a reason it cannot be known what else would help.
                    return self.load_instead(&error).await;
                };
                if problem.reason.as_deref() == Some("trimmed") {
                    let publisher = &refusal.publisher;
                    tracing::info!(
                        publisher,
                        "the change log of {publisher} no longer holds the missing changes: the replica loads all documents"
                    );
                    self.loader.load().await
                } else {
                    // Another history, or an old copy: the check-in finds out which.
                    self.check_ins.check_in().await.map(|_checked_in| ())
                }
            }
            // A publisher that counts no revisions, or does not know the document: a snapshot of
            // it does not exist either.
            ClientError::Refused(_) if error.is_unversioned() || error.is_no_document() => {
                Err(SourceError::from(error).into())
            }
            // A publisher or subscriber of an older version, which has no feed.
            ClientError::Refused(refusal) if refusal.status == 404 => self.loader.load().await,
            ClientError::Unusable { .. } => self.load_instead(&error).await,
            // Another publisher was tried already, so the next attempt comes after a wait.
            ClientError::Refused(_)
            | ClientError::Unreachable { .. }
            | ClientError::NoAnswer { .. }
            | ClientError::BrokenOff { .. }
            | ClientError::NoPublisher => Err(SourceError::from(error).into()),
        }
    }

    /// Loads because the answer of the feed cannot be used.
    async fn load_instead(&self, error: &ClientError) -> Result<(), SyncError> {
        tracing::warn!("the change feed cannot be used, the replica loads all documents: {error}");
        self.loader.load().await
    }

    /// Reads page after page until nothing is missing, or the feed says that there is no more. The
    /// cursor is not the watermark: a change that waits for the rest of its set moves the cursor
    /// only.
    ///
    /// `changed` are collections that are read to the end of their feed. Those stay in it of which no
    /// change came.
    ///
    /// # Errors
    /// When a page could not be read. The pages before it were applied.
    async fn read_feed(
        &self,
        epoch: Epoch,
        mut cursor: Cursor,
        changed: &mut BTreeSet<CollectionName>,
    ) -> Result<(), SourceError> {
        let started = Instant::now();
        let hinted = changed.clone();
        let mut count = 0;
        let mut begun = self.source.request_page(&cursor, epoch).await?;
        loop {
            // The next page is requested while this one is read and applied.
            let announced = begun.next();
            let ahead = announced.clone().map(|next| self.missing(next, &hinted));
            let ahead = ahead.filter(|ahead| !ahead.is_empty());
            let next = async {
                let ahead = ahead?;
                let requested = self.source.request_page(&ahead, epoch).await;
                Some(requested.map(|begun| (ahead, begun)))
            };
            let this = async {
                let wants_confirmation = begun.wants_confirmation();
                let page = self.source.read_page(begun, &cursor, epoch).await?;
                count += self.apply_page(&page, &hinted);
                if wants_confirmation {
                    self.signals.confirmation_wanted();
                }
                Ok::<_, SourceError>(page)
            };
            let (next, page) = tokio::join!(biased; next, this);
            let page = page?;
            for change in &page.changes {
                changed.remove(&change.collection);
            }
            if !page.more {
                break;
            }
            (cursor, begun) = match next {
                Some(next) if announced.as_ref() == Some(&page.reached) => next?,
                _not_announced => {
                    let cursor = self.missing(page.reached, &hinted);
                    if cursor.is_empty() {
                        break;
                    }
                    let begun = self.source.request_page(&cursor, epoch).await?;
                    (cursor, begun)
                }
            };
        }
        let took_ms = started.elapsed().as_millis();
        tracing::debug!(
            count,
            took_ms,
            "the replica caught up with {count} changes of the feed in {took_ms} ms"
        );
        Ok(())
    }

    /// The cursor of the page that follows one which ends at `reached`. A collection that lacks nothing
    /// any more is not asked for again, unless it is `hinted`.
    fn missing(&self, mut reached: Cursor, hinted: &BTreeSet<CollectionName>) -> Cursor {
        let view = self.cache.view();
        reached.retain(|name, revision| {
            if hinted.contains(name) {
                return true;
            }
            let Some(held) = view.root().collection(name) else {
                return false;
            };
            // Changes that came beyond a hole need not come again.
            *revision = held.runs_on_to(*revision);
            *revision < held.known()
        });
        reached
    }

    /// Applies a page. Returns the number of its changes that no event had brought.
    /// Those of the `hinted` collections were announced by one.
    fn apply_page(&self, page: &Page, hinted: &BTreeSet<CollectionName>) -> u64 {
        let span = self.traces.of_page(&page.changes);
        let new = span.in_scope(|| self.cache.apply_page(&page.changes));
        self.stats.page_applied(&page.changes, &new, hinted)
    }
}
