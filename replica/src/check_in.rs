//! The check-in: says where this replica is, hears where everything stands, and draws the conclusions.
//!
//! Its answer is the only thing that can make a replica `current`. It never changes a document by itself.

use std::time::{Duration, Instant};

use contract::fleet::{CheckIn, CheckedIn, Report};
use state::{NotInstalled, Root};

use crate::{OriginError, Replica, View, sync::SyncError};

impl Replica {
    /// Checks in once; loads first when nothing is held yet, and afterwards when the publisher is in a newer history, or when it found that this
    /// replica has diverged.
    pub(crate) async fn check_in(&self) -> Result<(), SyncError> {
        if !self.view().root().loaded() {
            self.load().await?;
            if self.view().root().epoch().is_none() {
                return Ok(());
            }
        }
        let view = self.view();
        let root = view.root();
        self.journal().tell_intake(self.config());
        let asked = Instant::now();
        let answer = match self.origin().check_in(root, &self.report(&view, asked)).await {
            Err(OriginError::NoRevisions { .. }) if root.epoch().is_none() => return self.load_lists().await,
            answer => answer?,
        };
        if let Err(refusal) = admissible(root, &answer) {
            return Err(self.refuse(refusal));
        }
        let diverged = !answer.resync.is_empty();
        for collection in answer.resync.keys() {
            tracing::error!(%collection, "{collection} differs from the publisher's and is loaded anew");
        }
        // The heads were true that long before they were asked for.
        let asked = asked.checked_sub(Duration::from_millis(answer.age));
        let other_epoch = self.write(|writer| {
            answer.resync.keys().for_each(|name| writer.machine.distrust(name));
            writer.read(asked, answer.heads)
        });
        if other_epoch || diverged { self.load().await } else { Ok(()) }
    }

    fn report(&self, view: &View, now: Instant) -> CheckIn {
        let config = self.config();
        let collections = view.root().collections().map(|(name, held)| {
            let report = Report {
                epoch: view.root().epoch().filter(|_epoch| held.versioned()),
                revision: held.watermark(),
                known: held.known(),
                settled: held.last_settled(),
                state: view.state_of(name, now),
                reason: view.reason_of(name).map(str::to_owned),
            };
            (name.clone(), report)
        });
        CheckIn {
            instance: config.instance.clone(),
            boot_id: self.boot_id().to_owned(),
            base_url: config.base_url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned()),
            interval_ms: config.check_in.as_millis().try_into().unwrap_or(u64::MAX),
            intake: self.journal().intake(config),
            collections: collections.collect(),
        }
    }
}

/// NeverEmpty, before anything is loaded: another store, or a history that was left, offers nothing to load.
fn admissible(root: &Root, answer: &CheckedIn) -> Result<(), NotInstalled> {
    let Some(ours) = root.epoch() else { return Ok(()) };
    match answer.heads.iter().map(|head| head.epoch).find(|epoch| *epoch != ours) {
        Some(theirs) if theirs.lineage != ours.lineage => Err(NotInstalled::OtherStore(theirs)),
        Some(theirs) if theirs.counter < ours.counter => Err(NotInstalled::OlderEpoch(theirs)),
        _ => Ok(()),
    }
}
