//! The named snapshots of a restore: one marks the store until the restore is finished, one keeps the
//! state before.

use anyhow::bail;
use client::Endpoint;
use contract::{Head, history::SnapshotName, named_snapshot::NamedSnapshot, sha256::Sha256};

use super::state::Selection;
use crate::{
    backup_file::Backup,
    commands::{explained, point::shown_time},
};

/// How the name begins of the snapshot that marks a store.
const UNFINISHED: &str = "unfinished-restore-";
/// How the name begins of the snapshot of the state before.
const BEFORE: &str = "before-restore-";

/// The marks of restores that were not finished; none of a service that has no named snapshots.
///
/// # Errors
/// When there is no answer.
pub(crate) async fn unfinished(publisher: &Endpoint) -> anyhow::Result<Vec<NamedSnapshot>> {
    let mut snapshots = match publisher.snapshots().await {
        Ok(snapshots) => snapshots,
        Err(error) if error.is_missing_route() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    snapshots.retain(|snapshot| snapshot.name.as_str().starts_with(UNFINISHED));
    Ok(snapshots)
}

/// The snapshots of one restore.
#[derive(Debug)]
pub(super) struct Marker {
    unfinished: SnapshotName,
    before: SnapshotName,
    /// The marks that the store has now: of this restore, and of others that it replaces.
    found: Vec<NamedSnapshot>,
    /// Whether the store has documents that could be wanted back.
    has_documents: bool,
}

impl Marker {
    /// Looks for the mark of this restore: of this backup and these collections.
    ///
    /// # Errors
    /// When there is no answer, or another restore was not finished and this one does not replace all that
    /// it wrote.
    pub(super) async fn find(
        publisher: &Endpoint,
        backup: &Backup,
        selection: &Selection,
        heads: &[Head],
    ) -> anyhow::Result<Self> {
        let names: Vec<&str> = selection.iter().map(|name| name.as_str()).collect();
        let text = format!("{}\n{}", backup.sha256, names.join("\n"));
        let key = format!("{:.8}", Sha256::of(&[text.as_bytes()]).to_string());
        let marker = Self {
            unfinished: format!("{UNFINISHED}{key}").parse()?,
            before: format!("{BEFORE}{key}").parse()?,
            found: unfinished(publisher).await?,
            has_documents: heads.iter().any(|head| head.count > 0),
        };
        let replaces_all = heads
            .iter()
            .all(|head| selection.contains(&head.collection));
        let other = marker.others().next();
        if let Some(other) = other.filter(|_other| !replaces_all) {
            bail!(
                "another restore was not finished: {}. Finish it by the same command, or restore a backup \
                 with all collections",
                described(other)
            );
        }
        Ok(marker)
    }

    fn others(&self) -> impl Iterator<Item = &NamedSnapshot> {
        let found = self.found.iter();
        found.filter(|snapshot| snapshot.name != self.unfinished)
    }

    /// Whether the store has documents of a restore that was not finished.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.found.is_empty()
    }

    fn continues(&self) -> bool {
        self.found.iter().any(|found| found.name == self.unfinished)
    }

    /// The name of the mark.
    pub(super) fn name(&self) -> &SnapshotName {
        &self.unfinished
    }

    /// What the operator should know before the restore.
    pub(super) fn remarks(&self) -> Vec<String> {
        let found = self.found.iter();
        let mut lines: Vec<_> = found
            .map(|found| {
                format!(
                    "a restore was not finished, and this one ends it: {}",
                    described(found)
                )
            })
            .collect();
        if self.has_documents && !self.continues() {
            let before = &self.before;
            lines.push(format!(
                "the state of now will be the named snapshot {before}"
            ));
        }
        lines
    }

    /// Marks the store, and keeps its state; a restore that continues keeps the state before its first
    /// attempt. Gives the name of the state before, if there is one.
    ///
    /// # Errors
    /// When there is no answer, or no further snapshot may be made. Then nothing was written.
    pub(super) async fn begin(&self, publisher: &Endpoint) -> anyhow::Result<Option<String>> {
        let created = |error| explained(publisher, error, "PUT /v1/snapshots/NAME");
        let kept = if self.continues() {
            let kept = publisher.snapshots().await?;
            kept.iter().any(|snapshot| snapshot.name == self.before)
        } else {
            if self.has_documents {
                // Of an earlier restore of the same backup.
                delete(publisher, &self.before).await?;
                let before = publisher.create_snapshot(&self.before).await;
                before.map_err(created)?;
            }
            let marked = publisher.create_snapshot(&self.unfinished).await;
            marked.map_err(created)?;
            self.has_documents
        };
        Ok(kept.then(|| self.before.to_string()))
    }

    /// Takes the marks away: that of this restore, and those of the restores that it replaces.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn end(&self, publisher: &Endpoint) -> anyhow::Result<()> {
        for other in self.others() {
            delete(publisher, &other.name).await?;
        }
        delete(publisher, &self.unfinished).await
    }
}

/// Deletes a snapshot, if there is one.
async fn delete(publisher: &Endpoint, name: &SnapshotName) -> anyhow::Result<()> {
    match publisher.delete_snapshot(name).await {
        Err(error) if error.status() != Some(404) => Err(error.into()),
        _deleted_or_absent => Ok(()),
    }
}

/// A mark in words.
pub(crate) fn described(mark: &NamedSnapshot) -> String {
    let reason = mark.context.reason().unwrap_or("of an unknown backup");
    let user = mark.context.user_id();
    let user = user.map_or_else(String::new, |user| format!(" by {user}"));
    let time = shown_time(mark.time);
    format!("{}, {reason}, begun at {time}{user}", mark.name)
}
