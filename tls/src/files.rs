//! Files that are read again while the process runs. What is in them decides, not their times: a
//! change is found however a file was replaced, also where a symbolic link names another folder now.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use contract::text::paths::ShownPath;
use tracing::{info, warn};

use crate::{TlsError, regular_file};

/// Largest file, in bytes. A bundle of all public authorities has about 220 KiB.
const MAX_FILE: u64 = 1 << 20;

/// Interval at which files are read.
pub const POLL: Duration = Duration::from_secs(5);

/// The content of each file, in the order of the paths.
pub type Contents = Vec<Vec<u8>>;

/// A group of files that are used together.
pub struct Files {
    what: &'static str,
    paths: Vec<PathBuf>,
    seen: Mutex<Seen>,
    /// When they were read. It is set before they are read.
    read_at: Mutex<Instant>,
}

#[derive(Default)]
struct Seen {
    /// What is in use.
    used: Contents,
    /// What was read last and cannot be used, and whether that was reported.
    refused: Option<(Contents, bool)>,
}

impl Files {
    /// Reads the files for the first time. `what` names them in logs.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn open(what: &'static str, paths: Vec<PathBuf>) -> Result<(Self, Contents), TlsError> {
        let contents = read(&paths)?;
        let seen = Seen {
            used: contents.clone(),
            refused: None,
        };
        let seen = Mutex::new(seen);
        let files = Self {
            what,
            paths,
            seen,
            read_at: Mutex::new(Instant::now()),
        };
        Ok((files, contents))
    }

    /// A path, by its position in the order of [`Files::open`].
    pub fn path(&self, index: usize) -> &Path {
        &self.paths[index]
    }

    /// Whether it is some seconds ago that the files were read; then the caller reads them, and no
    /// other caller does.
    pub fn is_due(&self) -> bool {
        let mut read_at = self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
        if read_at.elapsed() < POLL {
            return false;
        }
        *read_at = Instant::now();
        true
    }

    /// Reads the files. Where they changed, `take` uses them; where it cannot, what was used before stays
    /// in use. This is reported once, and only when the files are the same at the next time: they may
    /// be in the middle of being replaced.
    ///
    /// It blocks for as long as reading takes. While another thread reads them it returns at once: a
    /// file system that does not answer holds one thread, however often it is asked.
    pub fn reload(&self, take: impl FnOnce(&Contents) -> Result<(), TlsError>) {
        let mut seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // Files that cannot be read are like files without content.
        let (contents, failure) = match read(&self.paths) {
            Ok(contents) if contents == seen.used => {
                seen.refused = None;
                return;
            }
            Ok(contents) => (contents, None),
            Err(error) => (Contents::new(), Some(error)),
        };
        let known = match &mut seen.refused {
            Some((refused, reported)) if *refused == contents => Some(reported),
            _ => None,
        };
        if let Some(true) = known {
            return;
        }
        let error = match failure.map_or_else(|| take(&contents), Err) {
            Ok(()) => {
                info!(
                    files = self.names(),
                    "the files of {} changed: they are used from now on", self.what
                );
                *seen = Seen {
                    used: contents,
                    refused: None,
                };
                return;
            }
            Err(error) => error,
        };
        match known {
            Some(reported) => {
                *reported = true;
                warn!(
                    files = self.names(),
                    "the files of {} changed and cannot be used, so what was read before stays in use: {error}",
                    self.what
                );
            }
            None => seen.refused = Some((contents, false)),
        }
    }

    fn names(&self) -> String {
        let names = self.paths.iter().map(|path| ShownPath(path).to_string());
        Vec::from_iter(names).join(", ")
    }
}

fn read(paths: &[PathBuf]) -> Result<Contents, TlsError> {
    paths.iter().map(|path| content(path)).collect()
}

/// The content of a file.
pub(crate) fn content(path: &Path) -> Result<Vec<u8>, TlsError> {
    regular_file::read(path, MAX_FILE).map_err(|cause| TlsError::File {
        path: path.to_owned(),
        cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_reads_and_others_do_not_wait_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "a").expect("written");
        let (files, _contents) = Files::open("a test", vec![path.clone()]).expect("read");
        std::fs::write(&path, "b").expect("written");
        let mut taken = false;
        files.reload(|_contents| {
            std::thread::scope(|scope| {
                let other = || files.reload(|_contents| panic!("it is being read"));
                scope.spawn(other).join().expect("it returns at once");
            });
            taken = true;
            Ok(())
        });
        assert!(taken);
    }
}
