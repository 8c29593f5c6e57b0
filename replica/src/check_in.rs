//! The check-in: says where this replica is, hears where everything stands, and draws the
//! conclusions.
//!
//! Its answer, or a publisher's whole snapshot, is all that can make a replica `current`. It never
//! changes a document by itself.

use std::time::{Duration, Instant};

use contract::{
    fleet::{CheckIn, CollectionReport},
    status::MAX_REFUSALS,
};

use crate::{OriginError, Replica, View, sync::SyncError};

/// Refusals of all collections, and handlers, that a check-in tells: its size is limited.
const MAX_TOLD: usize = 50;

impl Replica {
    /// Checks in once. It loads first when nothing is held at all; afterwards when something is
    /// not, when the publisher is in a newer history, or when it found that this replica has
    /// diverged.
    ///
    /// A replica that lacks a collection checks in first all the same: what it holds of the others
    /// may be the only evidence that a database was restored.
    pub(crate) async fn check_in(&self) -> Result<(), SyncError> {
        if self.view().root().epoch().is_none() {
            self.load().await?;
            if self.view().root().epoch().is_none() {
                return Ok(());
            }
        }
        let view = self.view();
        let root = view.root();
        if self.journal().tell_intake(self.config()) {
            self.asked().deaf.notify_one();
        }
        let asked = Instant::now();
        let (report, token) = (self.report(&view, asked), self.config().app_token.as_ref());
        let answer = match self.origin().check_in(root, &report, token).await {
            Err(OriginError::NotTaken(refusal)) => return Err(self.refuse(refusal)),
            answer => answer?,
        };
        for collection in answer.resync.keys() {
            tracing::error!(%collection, "{collection} differs from the publisher's and is loaded anew");
        }
        // The heads were true that long before they were asked for.
        let asked = asked.checked_sub(Duration::from_millis(answer.age));
        let other_epoch = self.write(|writer| {
            answer
                .resync
                .keys()
                .for_each(|name| writer.machine.mark_diverged(name));
            writer.read(asked, answer.heads)
        });
        let loads = |held: &state::CollectionState| !held.loaded() || held.diverged();
        if other_epoch
            || self
                .view()
                .root()
                .collections()
                .any(|(_name, held)| loads(held))
        {
            self.load().await
        } else {
            Ok(())
        }
    }

    fn report(&self, view: &View, now: Instant) -> CheckIn {
        let config = self.config();
        let mut room = MAX_TOLD;
        let collections = view.root().collections().map(|(name, held)| {
            let refusals = self.typed().refusals(name, room.min(MAX_REFUSALS));
            room -= refusals.len();
            let report = CollectionReport {
                epoch: view.root().epoch().filter(|_epoch| held.versioned()),
                revision: held.watermark(),
                known: held.known(),
                settled: held.last_settled(),
                state: view.state_of(name, now),
                reason: view.reason_of(name).map(str::to_owned),
                refusals,
            };
            (name.clone(), report)
        });
        CheckIn {
            instance: config.instance.clone(),
            boot_id: self.boot_id().to_owned(),
            base_url: config
                .base_url
                .as_ref()
                .map(|url| url.as_str().trim_end_matches('/').to_owned()),
            interval_ms: config.check_in.as_millis().try_into().unwrap_or(u64::MAX),
            intake: self.journal().intake(config),
            collections: collections.collect(),
            handlers: self.handlers(MAX_TOLD),
        }
    }
}
