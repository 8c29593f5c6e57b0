//! Where the loop of a projection is: what waits, what is tried again when, and what the status says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use client::{RetryPolicy, Waits};
use state::Root;

use crate::{
    FilesError, FilesState, Pace, ReloadState, Status, attempt::Attempt, content::Source,
    pace::Gathered,
};

/// Where the loop is.
pub(crate) struct Progress {
    pub(crate) gathered: Gathered,
    /// Whether there is something to render besides changes.
    pub(crate) is_forced: bool,
    pub(crate) retry_at: Option<Instant>,
    pub(crate) retries: Waits,
    pub(crate) reload_at: Option<Instant>,
    pub(crate) reload_retries: Waits,
    pub(crate) failures: u32,
    /// As they were last rendered.
    pub(crate) source: Option<Arc<Source>>,
    pub(crate) status: Status,
    pub(crate) written: Option<(Status, Instant)>,
    pub(crate) status_failed: bool,
    pub(crate) look_at: Instant,
}

impl Progress {
    /// Everything has to be rendered. `status` is that of the folder as it was found.
    pub(crate) fn new(status: Status, look_at: Instant) -> Self {
        Self {
            gathered: Gathered::default(),
            is_forced: true,
            retry_at: None,
            retries: RetryPolicy::FILES.waits(),
            reload_at: None,
            reload_retries: RetryPolicy::FILES.waits(),
            failures: 0,
            source: None,
            status,
            written: None,
            status_failed: false,
            look_at,
        }
    }

    /// When something is to be rendered; `None` while there is nothing.
    pub(crate) fn due(&self, pace: &Pace, now: Instant) -> Option<Instant> {
        let forced = self.is_forced.then_some(now);
        let times = [forced, self.retry_at, self.gathered.due(pace)];
        times.into_iter().flatten().min()
    }

    /// Says when it is tried again.
    pub(crate) fn log_failure(&self, error: &FilesError) {
        let again = self.retry_at.map_or_else(
            || "with the next change".to_owned(),
            |at| format!("in {:.1?}", at.saturating_duration_since(Instant::now())),
        );
        tracing::warn!(
            kind = error.kind(),
            "the files stay as they are, and it is tried again {again}: {error}"
        );
    }

    /// An attempt has succeeded: the files are those of this state.
    pub(crate) fn succeeded(
        &mut self,
        attempt: &Attempt,
        root: &Root,
        took: Duration,
        has_reload: bool,
    ) {
        let is_first = self.status.files.is_none();
        self.failures = 0;
        self.retries.reset();
        self.status.state = FilesState::Current;
        let is_new = match attempt {
            Attempt::Same { number, files } => {
                self.status.rendered(root, *files);
                // The link was swapped by an attempt that failed after that, or by somebody else.
                std::mem::replace(&mut self.status.generation, *number) != *number
            }
            Attempt::Swapped { number, files } => {
                self.status.rendered(root, *files);
                self.status.generation = Some(*number);
                self.status.swapped_at = Some(Utc::now());
                tracing::info!(
                    generation = number,
                    files,
                    "generation {number} is current, made in {took:.1?}"
                );
                true
            }
        };
        // A process that was killed between the two has not notified the application.
        if has_reload && (is_new || is_first) {
            self.status.reload = ReloadState::Pending;
            self.reload_at = Some(Instant::now());
            self.reload_retries.reset();
        }
    }
}
