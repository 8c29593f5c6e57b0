//! The folder of the store: its lock, its permissions, and how a new file is made.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};

use crate::store::embedded::{failure, tables};

const FILE: &str = "confcast.sqlite";
/// A new store until it is whole, so that an empty [`FILE`] is always a damaged one.
const NEW: &str = "confcast.sqlite.new";
/// The file of a version that used redb.
const FORMER: &str = "confcast.redb";

/// The lock of a folder. The operating system releases it when the process ends.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Makes the folder if it does not exist, and locks it.
    ///
    /// # Errors
    /// When another process has it, or the folder cannot be made or written.
    pub(super) fn acquire(folder: &Path) -> anyhow::Result<Self> {
        if !folder.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .with_context(|| format!("creating the folder {}", folder.display()))?;
            if let Some(parent) = folder.parent().filter(|path| path.is_dir()) {
                sync(parent)?;
            }
        }
        // SQLite locks its own file; a second lock on that file would release the first.
        let file = folder.join("confcast.lock");
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&file)
            .with_context(|| format!("opening {} for writing", file.display()))?;
        match opened.try_lock() {
            Ok(()) => Ok(Self { _file: opened }),
            Err(TryLockError::WouldBlock) => bail!(
                "the folder {} is in use by another process: the embedded store serves one \
                 publisher at a time; stop the other one, or use MongoDB for several publishers",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", file.display()))
            }
        }
    }
}

/// The file of the store, which is made if there is none.
///
/// # Errors
/// When the folder has a store of another form, or the file cannot be made.
pub(super) fn prepare(folder: &Path) -> anyhow::Result<PathBuf> {
    let file = folder.join(FILE);
    match fs::metadata(&file) {
        Ok(found) => {
            ensure!(found.is_file(), "{} is not a regular file", file.display());
            // SQLite would take it for a new database.
            ensure!(
                found.len() > 0,
                "{} is empty: it was cut; restore a backup, or start with another folder",
                file.display()
            );
            // It holds the secret of the store. The files beside it get the same permissions.
            if found.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(&file, Permissions::from_mode(0o600))
                    .with_context(|| format!("restricting {} to its owner", file.display()))?;
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => create(folder, &file)?,
        Err(error) => return Err(error).with_context(|| format!("opening {}", file.display())),
    }
    Ok(file)
}

fn create(folder: &Path, file: &Path) -> anyhow::Result<()> {
    let former = folder.join(FORMER);
    ensure!(
        !former.exists(),
        "{} is the store of an earlier version, which this version does not read. Export it with \
         the earlier version (confcast export), start this one with another folder, and import it \
         (confcast import)",
        former.display()
    );
    for suffix in ["-wal", "-shm"] {
        let left = folder.join(format!("{FILE}{suffix}"));
        ensure!(
            !left.exists(),
            "{} is there without {FILE}: the store was moved or removed in part; restore all of \
             its files, or start with another folder",
            left.display()
        );
    }
    let new = folder.join(NEW);
    // What a stopped process left. It was never used.
    for suffix in ["", "-wal", "-shm", "-journal"] {
        match fs::remove_file(folder.join(format!("{NEW}{suffix}"))) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", new.display()));
            }
            _removed => {}
        }
    }
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .with_context(|| format!("creating {}", new.display()))?;
    tables::create(&new).map_err(|error| failure::at_start(&new, error))?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, file).with_context(|| format!("creating {}", file.display()))?;
    sync(folder)
}

/// Makes the names in a folder durable.
fn sync(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("syncing the folder {}", folder.display()))
}
