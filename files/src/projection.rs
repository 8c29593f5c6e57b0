//! The loop: it gathers changes, renders them, checks the generation, swaps the link and notifies the
//! application. It does one after the other, so no two commands ever run at once.
//!
//! It renders a view of the replica only when that is loaded, current and without a gap. A view is the state
//! of all collections at one moment, with whole change sets, so a generation is too.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use contract::status::ReplicaState;
use replica::{Replica, SecretKeys, View};
use state::Root;
use tokio::{task::spawn_blocking, time::sleep_until};

use crate::{
    FilesConfig, FilesError, FilesState, ReloadState,
    attempt::attempt,
    content::Source,
    folder::Folder,
    progress::Progress,
    proven::{is_renderable, last_error, until_current},
    status::{self, FailureStatus, Status},
};

/// Time between two looks at templates, keys and the link, which change without a notification.
const LOOK: Duration = Duration::from_secs(3);
/// Time between two writings of a status that does not change.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A projection of the collections of a replica into files.
#[derive(Debug)]
pub struct FileProjection {
    config: FilesConfig,
    replica: Replica,
    keys: Option<Arc<SecretKeys>>,
    folder: Arc<Folder>,
}

impl FileProjection {
    /// Takes the folder. Nothing is written to it until [`FileProjection::run`].
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(
        config: FilesConfig,
        replica: Replica,
        keys: Option<SecretKeys>,
    ) -> Result<Self, FilesError> {
        config.check_folders()?;
        let folder = Arc::new(Folder::open(&config.folder, config.access)?);
        Ok(Self {
            config,
            replica,
            keys: keys.map(Arc::new),
            folder,
        })
    }

    /// Renders once, as soon as everything is loaded and current, and notifies the application.
    ///
    /// # Errors
    /// When that is not so in time, or the only attempt fails.
    pub async fn once(&self, limit: Duration) -> Result<(), FilesError> {
        let mut progress = self.start()?;
        let view = until_current(&self.replica, limit).await?;
        let attempt = self.attempt(&mut progress, view.root()).await;
        self.report(&mut progress);
        attempt?;
        if let Some(reload) = &self.config.reload {
            reload
                .notify(
                    &self.folder.link(),
                    self.config.command_limit,
                    self.keys.is_some(),
                )
                .await?;
            progress.status.reload = ReloadState::Done;
            self.report(&mut progress);
        }
        Ok(())
    }

    /// Follows the replica, beside [`Replica::run`]. Every failure is tried again but one.
    ///
    /// # Errors
    /// When the folder is not the one any more that this process has locked.
    pub async fn run(&self) -> Result<Infallible, FilesError> {
        let mut changed = self.replica.feed_changed();
        let mut states = self.replica.states();
        let mut progress = self.start()?;
        loop {
            // Before the view is read: a change after that wakes the loop below.
            changed.borrow_and_update();
            states.borrow_and_update();
            let now = Instant::now();
            let view = self.replica.view();
            self.note_replica(&mut progress, &view, now);
            let is_renderable = is_renderable(&view, now);
            if is_renderable {
                progress.gathered.note(view.root(), now);
            }
            // First: where changes never end, the application would never be notified.
            if progress.reload_at.is_some_and(|at| at <= now) {
                self.notify(&mut progress).await;
                self.report(&mut progress);
                continue;
            }
            let due = progress.due(&self.config.pace, now);
            if is_renderable && due.is_some_and(|due| due <= now) {
                progress.status.state = FilesState::Pending;
                self.report(&mut progress);
                let attempt = self.attempt(&mut progress, view.root()).await;
                self.report(&mut progress);
                match attempt {
                    Ok(()) => {}
                    Err(error @ FilesError::Replaced(_)) => return Err(error),
                    Err(error) => progress.log_failure(&error),
                }
                continue;
            }
            self.report(&mut progress);
            let times = [due.filter(|_due| is_renderable), progress.reload_at];
            let next = times
                .into_iter()
                .flatten()
                .fold(progress.look_at, Instant::min);
            tokio::select! {
                ended = changed.changed() => if ended.is_err() { std::future::pending().await },
                ended = states.changed() => if ended.is_err() { std::future::pending().await },
                () = sleep_until(next.into()) => {}
            }
            if Instant::now() >= progress.look_at {
                self.look(&mut progress).await;
            }
        }
    }

    fn start(&self) -> Result<Progress, FilesError> {
        let current = self.folder.current()?;
        let status = Status::new(self.folder.link(), current, self.config.reload.is_some());
        Ok(Progress::new(status, Instant::now() + LOOK))
    }

    /// Takes notice of the state of the replica.
    fn note_replica(&self, progress: &mut Progress, view: &View, now: Instant) {
        let state = view.state(now);
        let before = std::mem::replace(&mut progress.status.replica, state);
        let is_rendered = progress.status.files.is_some();
        progress.status.state = match state {
            _ if !is_rendered && state != ReplicaState::Current => FilesState::Loading,
            ReplicaState::Current if progress.status.failure.is_some() => FilesState::Failing,
            ReplicaState::Current if progress.due(&self.config.pace, now).is_some() => {
                FilesState::Pending
            }
            ReplicaState::Current => FilesState::Current,
            ReplicaState::Loading
            | ReplicaState::Partial
            | ReplicaState::Behind
            | ReplicaState::Stale => FilesState::Stale,
        };
        if before == state || !is_rendered {
            return;
        }
        match state {
            ReplicaState::Current => tracing::info!("the configuration is current again"),
            ReplicaState::Stale => tracing::warn!(
                "no publisher confirms the configuration any more: the files stay as they are ({})",
                last_error(&self.replica)
            ),
            _ => {}
        }
    }

    /// Renders, checks and swaps, and says what came of it.
    async fn attempt(&self, progress: &mut Progress, root: &Root) -> Result<(), FilesError> {
        progress.is_forced = false;
        progress.retry_at = None;
        let began = Instant::now();
        let keys = self.keys.as_ref().map(|keys| keys.keyring());
        let attempted = attempt(&self.config, &self.folder, keys, root, &mut progress.source);
        let attempted = attempted.await;
        progress.gathered.clear(Instant::now());
        let error = match attempted {
            Ok(attempt) => {
                progress.succeeded(
                    &attempt,
                    root,
                    began.elapsed(),
                    self.config.reload.is_some(),
                );
                return Ok(());
            }
            Err(error) => error,
        };
        progress.failures += 1;
        progress.status.state = FilesState::Failing;
        progress.status.failure = Some(FailureStatus {
            kind: error.kind(),
            message: error.to_string(),
            attempts: progress.failures,
        });
        if error.is_transient() {
            progress.retry_at = Some(Instant::now() + progress.retries.next_wait());
        }
        Err(error)
    }

    async fn notify(&self, progress: &mut Progress) {
        progress.reload_at = None;
        let Some(reload) = &self.config.reload else {
            return;
        };
        let link = self.folder.link();
        match reload
            .notify(&link, self.config.command_limit, self.keys.is_some())
            .await
        {
            Ok(()) => {
                progress.reload_retries.reset();
                progress.status.reload = ReloadState::Done;
                progress.status.reload_error = None;
                tracing::info!("the application was notified of {}", link.display());
            }
            Err(error) => {
                let wait = progress.reload_retries.next_wait();
                progress.reload_at = Some(Instant::now() + wait);
                progress.status.reload = ReloadState::Failing;
                progress.status.reload_error = Some(error.to_string());
                tracing::warn!("{error}; it is tried again in {wait:.1?}");
            }
        }
    }

    /// Looks at what changes without a notification.
    async fn look(&self, progress: &mut Progress) {
        progress.look_at = Instant::now() + LOOK;
        if progress.status.files.is_none() && progress.failures == 0 {
            // Nothing was rendered yet.
            return;
        }
        if let Some(keys) = self.keys.clone()
            && matches!(spawn_blocking(move || keys.reload()).await, Ok(Ok(true)))
        {
            tracing::info!("the secret keys were read again");
            progress.is_forced = true;
        }
        let (content, last) = (self.config.content.clone(), progress.source.clone());
        let is_changed = spawn_blocking(move || Source::is_changed(&content, last.as_deref()));
        if is_changed.await.unwrap_or_default() {
            tracing::info!("the templates changed");
            progress.is_forced = true;
        }
        let linked = self.folder.current().ok().flatten();
        if progress.status.generation.is_some() && linked != progress.status.generation {
            tracing::warn!("somebody changed the link {}", self.folder.link().display());
            progress.is_forced = true;
        }
    }

    /// Writes the status where it changed, and from time to time.
    fn report(&self, progress: &mut Progress) {
        let Some(path) = &self.config.status_file else {
            return;
        };
        let now = Instant::now();
        let is_written = progress.written.as_ref().is_some_and(|(status, at)| {
            *status == progress.status && now.duration_since(*at) < HEARTBEAT
        });
        if is_written {
            return;
        }
        let failed = status::write(path, &progress.status).err();
        if let Some(error) = &failed
            && !progress.status_failed
        {
            tracing::warn!("the status was not written to {}: {error}", path.display());
        }
        progress.status_failed = failed.is_some();
        progress.written = Some((progress.status.clone(), now));
    }
}
