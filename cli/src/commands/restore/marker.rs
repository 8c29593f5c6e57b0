//! The named snapshots of a restore: one marks the store until the restore is finished, one keeps the
//! state before. The latter is never removed here: it may be the only way back.

use anyhow::{bail, ensure};
use chrono::Utc;
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
    /// How the names begin of the states before this restore, each time that it was made.
    before: String,
    /// The name of the state before, if it is of now.
    now: SnapshotName,
    /// The marks that the store has now: of this restore, and of others that it replaces.
    found: Vec<NamedSnapshot>,
    /// Whether documents are changed that could be wanted back.
    changes_documents: bool,
}

impl Marker {
    /// Looks for the mark of this restore: of this backup and these collections. `changes` is whether it
    /// changes documents.
    ///
    /// # Errors
    /// When there is no answer, or another restore was not finished and this one does not replace all that
    /// it wrote.
    pub(super) async fn find(
        publisher: &Endpoint,
        backup: &Backup,
        selection: &Selection,
        heads: &[Head],
        changes: bool,
    ) -> anyhow::Result<Self> {
        let names: Vec<&str> = selection.iter().map(|name| name.as_str()).collect();
        let text = format!("{}\n{}", backup.sha256, names.join("\n"));
        let key = format!("{:.8}", Sha256::of(&[text.as_bytes()]).to_string());
        let before = format!("{BEFORE}{key}");
        let marker = Self {
            unfinished: format!("{UNFINISHED}{key}").parse()?,
            now: format!("{before}-{}", Utc::now().format("%Y%m%dT%H%M%S%.3fZ")).parse()?,
            before,
            found: unfinished(publisher).await?,
            changes_documents: changes && heads.iter().any(|head| head.count > 0),
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

    /// The mark of an earlier attempt of this restore.
    fn earlier(&self) -> Option<&NamedSnapshot> {
        self.found
            .iter()
            .find(|found| found.name == self.unfinished)
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
        if self.changes_documents && self.earlier().is_none() {
            let now = &self.now;
            lines.push(format!("the state of now will be the named snapshot {now}"));
        }
        lines
    }

    /// Marks the store, and keeps its state; a restore that continues keeps the state before its first
    /// attempt. Gives the name of the state before, if there is one.
    ///
    /// # Errors
    /// When there is no answer, or no further snapshot may be made. Then nothing was written.
    pub(super) async fn begin(&self, publisher: &Endpoint) -> anyhow::Result<Option<String>> {
        if let Some(earlier) = self.earlier() {
            let mut before = publisher.snapshots().await?;
            // The newest one before the first attempt: later ones are of other restores.
            before.retain(|snapshot| {
                snapshot.name.as_str().starts_with(&self.before) && snapshot.time <= earlier.time
            });
            let before = before.into_iter().max_by_key(|snapshot| snapshot.time);
            return Ok(before.map(|before| before.name.to_string()));
        }
        let created = |error| explained(publisher, error, "PUT /v1/snapshots/NAME");
        if self.changes_documents {
            let before = publisher.create_snapshot(&self.now).await;
            before.map_err(created)?;
        }
        let marked = publisher.create_snapshot(&self.unfinished).await;
        marked.map_err(created)?;
        Ok(self.changes_documents.then(|| self.now.to_string()))
    }

    /// Requires that no other restore was at work meanwhile: the store may have a mix of both.
    ///
    /// # Errors
    /// When one was, or there is no answer.
    pub(super) async fn ensure_alone(&self, publisher: &Endpoint) -> anyhow::Result<()> {
        let marks = unfinished(publisher).await?;
        let is_known = |mark: &&NamedSnapshot| {
            mark.name == self.unfinished || self.found.iter().any(|found| found == *mark)
        };
        if let Some(other) = marks.iter().find(|mark| !is_known(mark)) {
            bail!(
                "another restore began meanwhile, and the store may have documents of both: {}. Let it end first",
                described(other)
            );
        }
        ensure!(
            marks.iter().any(|mark| mark.name == self.unfinished),
            "another restore ended meanwhile and removed the mark {}: the store may have documents of both",
            self.unfinished
        );
        Ok(())
    }

    /// Takes the marks away: that of this restore, and those of the restores that it replaces.
    ///
    /// # Errors
    /// When there is no answer, or as [`Self::ensure_alone`]. Then no mark is taken away.
    pub(super) async fn end(&self, publisher: &Endpoint) -> anyhow::Result<()> {
        self.ensure_alone(publisher).await?;
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

#[cfg(test)]
mod tests;
