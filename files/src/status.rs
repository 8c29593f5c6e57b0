//! What the projection does at the moment, for people and programs that look at a file.
//!
//! The file is replaced as a whole after each change and every ten seconds, so its age says whether the
//! process lives. It has no value of a document.

use std::{
    collections::BTreeMap,
    fs::Permissions,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use contract::{CollectionName, Epoch, Revision, status::ReplicaState};
use serde::Serialize;
use state::Root;

/// What the projection does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilesState {
    /// The configuration is not loaded yet. A folder of an earlier run stays.
    Loading,
    /// The files are those of the configuration.
    Current,
    /// Changes are gathered or rendered.
    Pending,
    /// No publisher confirms the configuration, or changes of it are missing: the last good files stay.
    Stale,
    /// The last attempt failed: the last good files stay.
    Failing,
}

/// Whether the application was notified of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadState {
    /// Nothing has to be notified.
    None,
    /// It is notified after the first success of this process.
    Pending,
    /// It was notified.
    Done,
    /// It was not notified yet, and is tried again.
    Failing,
}

/// The status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What it does.
    pub state: FilesState,
    /// The link to the files.
    pub link: PathBuf,
    /// The number of the generation that the link names; `None` before the first one.
    pub generation: Option<u64>,
    /// The number of files in it; `None` until this process has rendered.
    pub files: Option<usize>,
    /// The state of the replica.
    pub replica: ReplicaState,
    /// The epoch of the revisions that were rendered.
    pub epoch: Option<Epoch>,
    /// The revisions that were rendered.
    pub revisions: BTreeMap<CollectionName, Revision>,
    /// When this process swapped the link last.
    pub swapped_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub failure: Option<FailureStatus>,
    /// Whether the application was notified.
    pub reload: ReloadState,
    /// Why the application was not notified.
    pub reload_error: Option<String>,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// `disk`, `template`, `secret`, `limit`, `name`, `check` or `not-current`.
    pub kind: &'static str,
    /// In words.
    pub message: String,
    /// Failures since the last success.
    pub attempts: u32,
}

impl Status {
    pub(crate) fn new(link: PathBuf, generation: Option<u64>, has_reload: bool) -> Self {
        Self {
            state: FilesState::Loading,
            link,
            generation,
            files: None,
            replica: ReplicaState::Loading,
            epoch: None,
            revisions: BTreeMap::new(),
            swapped_at: None,
            failure: None,
            reload: match has_reload {
                true => ReloadState::Pending,
                false => ReloadState::None,
            },
            reload_error: None,
        }
    }

    /// These revisions are in the files.
    pub(crate) fn rendered(&mut self, root: &Root, files: usize) {
        self.files = Some(files);
        self.epoch = root.epoch();
        let collections = root.collections();
        self.revisions = collections
            .map(|(name, held)| (name.clone(), held.watermark()))
            .collect();
        self.failure = None;
    }
}

/// The status with the time of its writing.
#[derive(Serialize)]
struct Written<'a> {
    time: DateTime<Utc>,
    #[serde(flatten)]
    status: &'a Status,
}

/// Replaces the file.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(path: &Path, status: &Status) -> io::Result<()> {
    let written = Written {
        time: Utc::now(),
        status,
    };
    let text = serde_json::to_string_pretty(&written)?;
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .suffix(".part")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    writeln!(file, "{text}")?;
    file.persist(path)?;
    Ok(())
}
