//! The loop: it gathers changes, renders them, checks the generation, swaps the link and notifies the
//! application. It does one after the other, so no two commands ever run at once.
//!
//! It renders a view of the replica only when that is loaded, current and without a gap. A view is the state
//! of all collections at one moment, with whole change sets, so a generation is too.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use contract::status::ReplicaState;
use replica::{Replica, SecretKeys, View};
use state::Root;
use tokio::{task::spawn_blocking, time::sleep_until};

use crate::{
    Access, CommandLine, Content, FilesError, FilesState, Limits, Pace, Reload, ReloadState,
    RenderedFile, Status,
    content::Source,
    folder::{self, Folder},
    generation::{Generation, files_below},
    pace::{Backoff, Gathered},
    status::{self, FailureStatus},
};

/// Time between two looks at templates, keys and the link, which change without a notification.
const LOOK: Duration = Duration::from_secs(3);
/// Time between two writings of a status that does not change.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Longest wait after a failure that may pass by itself.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Longest wait after a failed notification.
const LONGEST_RELOAD_RETRY: Duration = Duration::from_secs(30);

/// What is rendered, where to, and who is asked and notified.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// The folder with the link. It is made when it is not there.
    pub folder: PathBuf,
    /// What the files are made of.
    pub content: Content,
    /// Bounds of a generation.
    pub limits: Limits,
    /// Who may read the files.
    pub access: Access,
    /// How many generations are kept besides the current one. An application may still read the last one.
    pub keep: usize,
    /// How long changes are gathered.
    pub pace: Pace,
    /// The command that accepts or refuses a generation.
    pub check: Option<CommandLine>,
    /// How the application is notified.
    pub reload: Option<Reload>,
    /// How long a command may run.
    pub command_limit: Duration,
    /// Where the status is written.
    pub status_file: Option<PathBuf>,
}

impl FilesConfig {
    /// # Errors
    /// When templates and files are in each other: the files of one generation would be templates of the
    /// next one.
    fn check_folders(&self) -> Result<(), FilesError> {
        let Content::Templates(templates) = &self.content else {
            return Ok(());
        };
        let (Ok(from), Ok(to)) = (templates.canonicalize(), self.folder.canonicalize()) else {
            // One that does not exist is an error of its own.
            return Ok(());
        };
        if from.starts_with(&to) || to.starts_with(&from) {
            return Err(FilesError::Templates {
                path: templates.clone(),
                reason: format!("it and {} must not be in each other", to.display()),
            });
        }
        Ok(())
    }
}

/// A projection of the collections of a replica into files.
#[derive(Debug)]
pub struct FileProjection {
    config: FilesConfig,
    replica: Replica,
    keys: Option<Arc<SecretKeys>>,
    folder: Arc<Folder>,
}

/// What an attempt did.
enum Attempt {
    /// The current generation has these files already.
    Same { number: Option<u64>, files: usize },
    /// There is a new generation.
    Swapped { number: u64, files: usize },
}

/// Where the loop is.
struct Progress {
    gathered: Gathered,
    /// Whether there is something to render besides changes.
    is_forced: bool,
    retry_at: Option<Instant>,
    retries: Backoff,
    reload_at: Option<Instant>,
    reload_retries: Backoff,
    failures: u32,
    /// As they were last rendered.
    source: Option<Arc<Source>>,
    status: Status,
    written: Option<(Status, Instant)>,
    status_failed: bool,
    look_at: Instant,
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
        let folder = Arc::new(Folder::open(&config.folder, config.access)?);
        config.check_folders()?;
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
        self.attempt(&mut progress, view.root()).await?;
        self.report(&mut progress);
        if let Some(reload) = &self.config.reload {
            reload
                .notify(&self.folder.link(), self.config.command_limit)
                .await?;
            progress.status.reload = ReloadState::Done;
            self.report(&mut progress);
        }
        Ok(())
    }

    /// Follows the replica, beside [`Replica::run`]. It never ends: every failure is tried again.
    ///
    /// # Errors
    /// When the folder cannot be used at all.
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
                // The failure is logged and in the status; it is tried again.
                self.attempt(&mut progress, view.root()).await.ok();
                self.report(&mut progress);
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
        Ok(Progress {
            gathered: Gathered::default(),
            is_forced: true,
            retry_at: None,
            retries: Backoff::up_to(LONGEST_RETRY),
            reload_at: None,
            reload_retries: Backoff::up_to(LONGEST_RELOAD_RETRY),
            failures: 0,
            source: None,
            status,
            written: None,
            status_failed: false,
            look_at: Instant::now() + LOOK,
        })
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
        progress.gathered.clear();
        progress.is_forced = false;
        progress.retry_at = None;
        let began = Instant::now();
        let error = match self.render_and_swap(&mut progress.source, root).await {
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
        let again = if error.is_transient() {
            let now = Instant::now();
            let at = progress.retries.after_failure(now);
            progress.retry_at = Some(at);
            format!("in {:?}", at - now)
        } else {
            "with the next change".to_owned()
        };
        tracing::warn!(
            kind = error.kind(),
            "the files stay as they are, and it is tried again {again}: {error}"
        );
        Err(error)
    }

    async fn render_and_swap(
        &self,
        last: &mut Option<Arc<Source>>,
        root: &Root,
    ) -> Result<Attempt, FilesError> {
        let content = self.config.content.clone();
        let source = blocking(move || Source::read(&content)).await.map(Arc::new);
        // Also what cannot be read: another look would else begin another attempt.
        *last = source.as_ref().ok().cloned();
        let source = source?;
        let folder = Arc::clone(&self.folder);
        let (root, keys) = (root.clone(), self.keys.as_ref().map(|keys| keys.keyring()));
        let limits = self.config.limits;
        let (generation, files) = blocking(move || {
            let mut generation = Generation::begin(&folder)?;
            let files = source.render(&root, keys.as_ref(), &limits, &mut |file| {
                generation.write(&file)
            })?;
            if !generation.is_changed()? {
                return Ok((None, files));
            }
            generation.finish()?;
            Ok((Some(generation), files))
        })
        .await?;
        let Some(generation) = generation else {
            let number = self.folder.current()?;
            return Ok(Attempt::Same { number, files });
        };
        if let Some(check) = &self.config.check {
            let checked = check.run(generation.path(), self.config.command_limit);
            checked.await.map_err(|failure| FilesError::Check {
                command: check.to_string(),
                failure,
            })?;
        }
        let folder = Arc::clone(&self.folder);
        let keep = self.config.keep;
        let number = generation.number();
        blocking(move || {
            generation.publish()?;
            // The files are there: what cannot be removed now is removed after the next swap.
            if let Err(error) = folder.collect(keep) {
                tracing::warn!("earlier generations were not removed: {error}");
            }
            Ok(())
        })
        .await?;
        Ok(Attempt::Swapped { number, files })
    }

    async fn notify(&self, progress: &mut Progress) {
        progress.reload_at = None;
        let Some(reload) = &self.config.reload else {
            return;
        };
        let link = self.folder.link();
        match reload.notify(&link, self.config.command_limit).await {
            Ok(()) => {
                progress.reload_retries.reset();
                progress.status.reload = ReloadState::Done;
                progress.status.reload_error = None;
                tracing::info!("the application was notified of {}", link.display());
            }
            Err(error) => {
                let now = Instant::now();
                let at = progress.reload_retries.after_failure(now);
                progress.reload_at = Some(at);
                progress.status.reload = ReloadState::Failing;
                progress.status.reload_error = Some(error.to_string());
                tracing::warn!("{error}; it is tried again in {:?}", at - now);
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

impl Progress {
    /// When something is to be rendered; `None` while there is nothing.
    fn due(&self, pace: &Pace, now: Instant) -> Option<Instant> {
        let forced = self.is_forced.then_some(now);
        let times = [forced, self.retry_at, self.gathered.due(pace)];
        times.into_iter().flatten().min()
    }

    fn succeeded(&mut self, attempt: &Attempt, root: &Root, took: Duration, has_reload: bool) {
        let is_first = self.status.files.is_none();
        self.failures = 0;
        self.retries.reset();
        self.status.state = FilesState::Current;
        let is_new = match attempt {
            Attempt::Same { number, files } => {
                self.status.rendered(root, *files);
                self.status.generation = *number;
                false
            }
            Attempt::Swapped { number, files } => {
                self.status.rendered(root, *files);
                self.status.generation = Some(*number);
                self.status.swapped_at = Some(Utc::now());
                tracing::info!(
                    generation = number,
                    files,
                    "generation {number} is current: {files} files, written in {took:?}"
                );
                true
            }
        };
        // A process that was killed between the two has not notified the application.
        if has_reload && (is_new || is_first) {
            self.reload_at = Some(Instant::now());
            self.reload_retries.reset();
        }
    }
}

/// A file that would change.
#[derive(Debug)]
pub struct FileChange {
    /// Its path in the generation.
    pub path: String,
    /// What it contains now; `None` when it is new.
    pub before: Option<Vec<u8>>,
    /// What it would contain; `None` when it would be removed.
    pub after: Option<Vec<u8>>,
    /// Whether secrets in plain text may be in it.
    pub has_secrets: bool,
}

/// What a projection would change in its folder. Nothing is written, and no command runs.
///
/// # Errors
/// When nothing is proven in time, or something cannot be rendered.
pub async fn preview(
    config: &FilesConfig,
    replica: &Replica,
    keys: Option<SecretKeys>,
    limit: Duration,
) -> Result<Vec<FileChange>, FilesError> {
    config.check_folders()?;
    let view = until_current(replica, limit).await?;
    let config = config.clone();
    blocking(move || {
        let keys = keys.map(|keys| keys.keyring());
        let base = folder::current_of(&config.folder)?;
        let mut left = base
            .as_deref()
            .and_then(|base| files_below(base).ok())
            .unwrap_or_default();
        let mut changes = Vec::new();
        let source = Source::read(&config.content)?;
        source.render(view.root(), keys.as_ref(), &config.limits, &mut |file| {
            left.retain(|path| path != Path::new(&file.path));
            let RenderedFile {
                path,
                content,
                has_secrets,
            } = file;
            let before = base
                .as_deref()
                .and_then(|base| std::fs::read(base.join(&path)).ok());
            if before.as_ref() != Some(&content) {
                changes.push(FileChange {
                    path,
                    before,
                    after: Some(content),
                    has_secrets,
                });
            }
            Ok(())
        })?;
        for path in left {
            changes.push(FileChange {
                path: path.to_string_lossy().into_owned(),
                before: Some(Vec::new()),
                after: None,
                has_secrets: false,
            });
        }
        Ok(changes)
    })
    .await
}

/// The view, as soon as it may be rendered.
async fn until_current(replica: &Replica, limit: Duration) -> Result<Arc<View>, FilesError> {
    let mut changed = replica.feed_changed();
    let mut states = replica.states();
    let deadline = Instant::now() + limit;
    loop {
        changed.borrow_and_update();
        states.borrow_and_update();
        let view = replica.view();
        let now = Instant::now();
        if is_renderable(&view, now) {
            return Ok(view);
        }
        if now >= deadline {
            return Err(FilesError::NotCurrent {
                waited: limit,
                state: format!("{}, {}", view.state(now).as_str(), last_error(replica)),
            });
        }
        tokio::select! {
            _ = changed.changed() => {}
            _ = states.changed() => {}
            // A view may become complete without either.
            () = sleep_until((now + LOOK).min(deadline).into()) => {}
        }
    }
}

/// Whether everything was loaded and is confirmed, and no change is known to be missing.
fn is_renderable(view: &View, now: Instant) -> bool {
    view.loaded() && view.state(now) == ReplicaState::Current && view.root().gaps().is_empty()
}

fn last_error(replica: &Replica) -> String {
    let error = replica.status().last_error;
    error.unwrap_or_else(|| "no error".to_owned())
}

/// Runs work that blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
