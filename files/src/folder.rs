//! The folder: its link, its generations, and which process writes to it.
//!
//! `current` is a symbolic link to `.generations/NUMBER`. A generation that is being written or removed is
//! called `NUMBER.part`, and what a check is given `NUMBER.check`, so a process that is killed leaves nothing
//! that looks whole and is not; the next one removes it. The link is relative: the folder may be mounted
//! elsewhere.
//!
//! The lock is on the folder itself, so that it is not lost with a file that somebody removes.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use crate::{FilesError, error::at_path};

/// The name of the link to the newest generation.
pub const LINK: &str = "current";
/// The folder of the generations.
const GENERATIONS: &str = ".generations";
/// The link before it has its name.
const NEW_LINK: &str = ".current.new";
/// The end of the name of a generation that is not whole.
const PART: &str = ".part";
/// The end of the name of what a check is given.
const CHECK: &str = ".check";
/// Digits of a number, so that names are in order.
const DIGITS: usize = 10;

/// Who may read the files.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// Mode of files, whatever the mask of the process is. Folders have it too, with `x` where a file has `r`.
    pub mode: u32,
    /// Mode of files that have secrets in plain text.
    pub secret_mode: u32,
    /// User and group of files and folders.
    pub owner: Option<(u32, u32)>,
}

impl Access {
    pub(crate) fn folder_mode(&self) -> u32 {
        0o700 | self.mode | ((self.mode & 0o444) >> 2)
    }
}

/// The folder, locked for this process.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    pub(crate) access: Access,
    /// The folder, locked as long as this is open.
    lock: File,
}

impl Folder {
    /// Makes the folder, if there is none, and locks it.
    ///
    /// # Errors
    /// When it cannot be written to, another process has it, or `current` is something else.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self, FilesError> {
        // The owner of the files is a user that could replace what this process writes, so both folders stay
        // those of the process. Each generation has its own mode below them.
        let mode = match access.owner {
            Some(_) => access.folder_mode() | 0o011,
            None => access.folder_mode(),
        };
        let make = |path: &Path| {
            let is_new = !path.exists();
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(mode).create(path)?;
            if is_new {
                // Whatever the mask of the process is.
                fs::set_permissions(path, Permissions::from_mode(mode))?;
            }
            Ok(())
        };
        make(path).map_err(at_path(path))?;
        let path = path.canonicalize().map_err(at_path(path))?;
        let generations = path.join(GENERATIONS);
        make(&generations).map_err(at_path(&generations))?;
        if access.owner.is_some() {
            for folder in [&path, &generations] {
                ensure_own(folder)?;
            }
        }
        let lock = File::open(&path).map_err(at_path(&path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FilesError::Locked(path.clone()),
            TryLockError::Error(reason) => at_path(&path)(reason),
        })?;
        let folder = Self { path, access, lock };
        folder.current()?;
        Ok(folder)
    }

    /// The path of the link.
    pub(crate) fn link(&self) -> PathBuf {
        self.path.join(LINK)
    }

    /// The generation that the link names; `None` before the first one.
    pub(crate) fn current(&self) -> Result<Option<u64>, FilesError> {
        current(&self.path)
    }

    pub(crate) fn path_of(&self, number: u64) -> PathBuf {
        self.path.join(GENERATIONS).join(name_of(number))
    }

    pub(crate) fn part_of(&self, number: u64) -> PathBuf {
        let name = format!("{}{PART}", name_of(number));
        self.path.join(GENERATIONS).join(name)
    }

    /// Where a check finds the files of a generation that has no name yet.
    pub(crate) fn check_of(&self, number: u64) -> PathBuf {
        let name = format!("{}{CHECK}", name_of(number));
        self.path.join(GENERATIONS).join(name)
    }

    /// The folder with this name is the one that is locked. Another process may have locked a new one.
    pub(crate) fn ensure_locked(&self) -> Result<(), FilesError> {
        let inode = |found: fs::Metadata| (found.dev(), found.ino());
        let named = fs::metadata(&self.path).map(inode);
        let locked = self.lock.metadata().map(inode);
        match named.map_err(at_path(&self.path))? == locked.map_err(at_path(&self.path))? {
            true => Ok(()),
            false => Err(FilesError::Replaced(self.path.clone())),
        }
    }

    /// The number of the next generation. What is left of a killed process is removed first.
    pub(crate) fn next(&self) -> Result<u64, FilesError> {
        self.ensure_locked()?;
        self.remove_parts()?;
        let newest = self.numbers()?.into_iter().chain(self.current()?).max();
        let next = newest.unwrap_or_default().checked_add(1);
        next.ok_or_else(|| FilesError::NoNumber(self.path.join(GENERATIONS)))
    }

    /// Gives a generation its name, and gives its path.
    pub(crate) fn name(&self, number: u64) -> Result<PathBuf, FilesError> {
        self.ensure_locked()?;
        let whole = self.path_of(number);
        fs::rename(self.part_of(number), &whole).map_err(at_path(&whole))?;
        Ok(whole)
    }

    /// Makes a generation whose files are on the disk the current one, in one step.
    pub(crate) fn swap(&self, number: u64) -> Result<(), FilesError> {
        sync(&self.path.join(GENERATIONS))?;
        self.ensure_locked()?;
        let new = self.path.join(NEW_LINK);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at_path(new)(error));
            }
            _ => {}
        }
        let target = Path::new(GENERATIONS).join(name_of(number));
        symlink(target, &new).map_err(at_path(&new))?;
        let link = self.link();
        fs::rename(&new, &link).map_err(at_path(&link))?;
        sync(&self.path)
    }

    /// Removes all generations but the current one and so many of those before it.
    pub(crate) fn collect(&self, keep: usize) -> Result<(), FilesError> {
        let current = self.current()?;
        let mut others = self.numbers()?;
        others.retain(|number| Some(*number) != current);
        others.sort_unstable();
        others.reverse();
        for number in others.into_iter().skip(keep) {
            // Killed here, it leaves no folder that looks whole.
            let part = self.part_of(number);
            fs::rename(self.path_of(number), &part).map_err(at_path(&part))?;
        }
        self.remove_parts()
    }

    fn remove_parts(&self) -> Result<(), FilesError> {
        for name in self.names()? {
            let number = [PART, CHECK].iter().find_map(|end| name.strip_suffix(end));
            if number.and_then(number_of).is_some() {
                let path = self.path.join(GENERATIONS).join(name);
                let removed = match fs::remove_dir_all(&path) {
                    // Not one of ours.
                    Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                        fs::remove_file(&path)
                    }
                    removed => removed,
                };
                removed.map_err(at_path(&path))?;
            }
        }
        Ok(())
    }

    fn numbers(&self) -> Result<Vec<u64>, FilesError> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| number_of(name)).collect())
    }

    /// The names in the folder of generations. A name that is not UTF-8 is none of ours.
    fn names(&self) -> Result<Vec<String>, FilesError> {
        let path = self.path.join(GENERATIONS);
        let entries = fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(at_path(path))?;
        let names = entries.into_iter().map(|entry| entry.file_name());
        Ok(names.filter_map(|name| name.into_string().ok()).collect())
    }
}

/// A folder in which nobody but this process can replace names.
fn ensure_own(folder: &Path) -> Result<(), FilesError> {
    let found = fs::symlink_metadata(folder).map_err(at_path(folder))?;
    let is_own = found.is_dir()
        && found.uid() == rustix::process::geteuid().as_raw()
        && found.mode() & 0o022 == 0;
    match is_own {
        true => Ok(()),
        false => Err(FilesError::NotOwn(folder.to_owned())),
    }
}

impl Access {
    /// Gives a path this mode, and the owner.
    pub(crate) fn apply(&self, path: &Path, mode: u32) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            chown(path, Some(user), Some(group))?;
        }
        // After the owner: a change of the owner may clear bits.
        fs::set_permissions(path, Permissions::from_mode(mode))
    }
}

/// The folder of the current generation, for a reader that has no lock; `None` where there is none.
pub(crate) fn current_of(folder: &Path) -> Result<Option<PathBuf>, FilesError> {
    Ok(current(folder)?.map(|number| folder.join(GENERATIONS).join(name_of(number))))
}

/// Brings a file, or the names in a folder, to the disk.
pub(crate) fn sync(path: &Path) -> Result<(), FilesError> {
    let synced = File::open(path).and_then(|opened| opened.sync_all());
    synced.map_err(at_path(path))
}

fn current(folder: &Path) -> Result<Option<u64>, FilesError> {
    let link = folder.join(LINK);
    let target = match fs::read_link(&link) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(FilesError::NoLink(link));
        }
        Err(error) => return Err(at_path(link)(error)),
    };
    let name = target.strip_prefix(GENERATIONS).ok();
    let number = name.and_then(|name| number_of(name.to_str()?));
    // A link of somebody else is not replaced.
    number.map(Some).ok_or(FilesError::NoLink(link))
}

fn name_of(number: u64) -> String {
    format!("{number:0DIGITS$}")
}

fn number_of(name: &str) -> Option<u64> {
    let is_number = name.len() >= DIGITS && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| name.parse().ok()).flatten()
}
