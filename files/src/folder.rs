//! The folder: its link, its generations, and which process writes to it.
//!
//! `current` is a symbolic link to `.generations/NUMBER`. A generation that is being written or removed is
//! called `NUMBER.part`, and what a check is given `NUMBER.check`; it gets its name when it is on the disk, so
//! a process that is killed leaves nothing that looks whole and is not. The next one removes it. The link is
//! relative: the folder may be mounted elsewhere.
//!
//! The lock is on the folder itself, so that it is not lost with a file that somebody removes, and on a file in
//! it: NFS and SMB show other hosts the lock of a file, but not that of a folder.
//!
//! With another owner of the files, nothing is changed by its path that this owner could replace: the folder and
//! all above it are out of its reach, and mode and owner are set on open files.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
        symlink,
    },
    path::{Path, PathBuf, absolute},
};

use rustix::fs::OFlags;

use crate::{FilesError, error::at_path};

/// The name of the link to the newest generation.
pub const LINK: &str = "current";
/// The folder of the generations.
const GENERATIONS: &str = ".generations";
/// The file that is locked, in the folder of the generations.
const LOCK: &str = ".lock";
/// The link before it has its name.
const NEW_LINK: &str = ".current.new";
/// The end of the name of a generation that is not whole.
const PART: &str = ".part";
/// The end of the name of what a check is given.
const CHECK: &str = ".check";
/// Most folders of earlier attempts that cannot be removed. A check may leave one at each attempt, and they
/// would fill the disk.
const MAX_LEFT: usize = 10;
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
    /// The folder and the file in it, locked as long as they are open.
    locks: [(PathBuf, File); 2],
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
            Some(_) => (access.folder_mode() | 0o011) & !0o022,
            None => access.folder_mode(),
        };
        let make = |path: &Path| {
            let is_new = !path.exists();
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(mode).create(path)?;
            if is_new {
                // Whatever the mask of the process is.
                open_folder(path)?.set_permissions(Permissions::from_mode(mode))?;
            }
            Ok(())
        };
        let has_owner = access.owner.is_some();
        let named = match has_owner {
            true => below_out_of_reach(path)?,
            false => path.to_owned(),
        };
        make(&named).map_err(at_path(path))?;
        let path = named.canonicalize().map_err(at_path(path))?;
        if has_owner {
            path.ancestors().skip(1).try_for_each(ensure_out_of_reach)?;
            ensure_own(&path)?;
        }
        let generations = path.join(GENERATIONS);
        make(&generations).map_err(at_path(&generations))?;
        if has_owner {
            ensure_own(&generations)?;
        }
        let folder = Self {
            locks: [lock(&path, &path)?, lock(&path, &generations.join(LOCK))?],
            path,
            access,
        };
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

    /// The folder and the file with these names are those that are locked. Another process may have locked new
    /// ones.
    pub(crate) fn ensure_locked(&self) -> Result<(), FilesError> {
        for (path, lock) in &self.locks {
            let is_locked = match fs::metadata(path) {
                Ok(named) => is_same_file(&named, &lock.metadata().map_err(at_path(path))?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(at_path(path)(error)),
            };
            if !is_locked {
                return Err(FilesError::Replaced(path.clone()));
            }
        }
        Ok(())
    }

    /// The number of the next generation, which nothing in the folder has. What is left of a killed process is
    /// removed first.
    pub(crate) fn next(&self) -> Result<u64, FilesError> {
        self.ensure_locked()?;
        self.remove_parts()?;
        let names = self.names()?;
        // With what could not be removed.
        let taken = names
            .iter()
            .filter_map(|name| number_of(name).or_else(|| number_of_part(name)));
        let newest = taken.chain(self.current()?).max();
        let next = newest.unwrap_or_default().checked_add(1);
        next.ok_or_else(|| FilesError::NoNumber(self.path.join(GENERATIONS)))
    }

    /// Gives a generation whose files are on the disk its name.
    pub(crate) fn name(&self, number: u64) -> Result<(), FilesError> {
        self.ensure_locked()?;
        let whole = self.path_of(number);
        fs::rename(self.part_of(number), &whole).map_err(at_path(&whole))
    }

    /// Makes a generation that has its name the current one, in one step.
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

    /// Removes all generations but the current one and the `keep` newest of the others.
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

    /// Removes what is not whole. What cannot be removed, such as what a check has left, only takes space.
    fn remove_parts(&self) -> Result<(), FilesError> {
        let mut left = Vec::new();
        for name in self.names()? {
            if number_of_part(&name).is_some() {
                let path = self.path.join(GENERATIONS).join(name);
                let removed = match fs::remove_dir_all(&path) {
                    // Not one of ours.
                    Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                        fs::remove_file(&path)
                    }
                    removed => removed,
                };
                left.extend(removed.map_err(at_path(&path)).err());
            }
        }
        let count = left.len();
        let Some(last) = left.pop() else {
            return Ok(());
        };
        let error = FilesError::Left(count, Box::new(last));
        if count >= MAX_LEFT {
            return Err(error);
        }
        tracing::warn!("{error}");
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

/// Locks a file, which is made if there is none, or the folder itself, for this process.
fn lock(folder: &Path, path: &Path) -> Result<(PathBuf, File), FilesError> {
    let opened = match path == folder {
        true => open_folder(path),
        // Other hosts see a lock only where the file may be written to.
        false => options(OFlags::NOFOLLOW | OFlags::NONBLOCK).and_then(|mut options| {
            let options = options.write(true).create(true).truncate(false);
            options.mode(0o600).open(path)
        }),
    };
    let opened = opened.map_err(at_path(path))?;
    opened.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => FilesError::Locked(folder.to_owned()),
        TryLockError::Error(reason) => at_path(path)(reason),
    })?;
    Ok((path.to_owned(), opened))
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

/// The path of a folder that may have to be made, by what is there of it, which is out of reach.
fn below_out_of_reach(path: &Path) -> Result<PathBuf, FilesError> {
    let path = absolute(path).map_err(at_path(path))?;
    let above = path.ancestors().skip(1).find(|above| above.exists());
    let Some((above, rest)) = above.and_then(|it| Some((it, path.strip_prefix(it).ok()?))) else {
        return Ok(path);
    };
    let above = above.canonicalize().map_err(at_path(above))?;
    above.ancestors().try_for_each(ensure_out_of_reach)?;
    Ok(above.join(rest))
}

/// A folder in which nobody but this process and root can replace a name of theirs.
fn ensure_out_of_reach(folder: &Path) -> Result<(), FilesError> {
    let found = fs::symlink_metadata(folder).map_err(at_path(folder))?;
    let is_safe = found.is_dir()
        && [0, rustix::process::geteuid().as_raw()].contains(&found.uid())
        // Where it is sticky, others replace only names of their own.
        && (found.mode() & 0o022 == 0 || found.mode() & 0o1000 != 0);
    match is_safe {
        true => Ok(()),
        false => Err(FilesError::NotOwnAbove(folder.to_owned())),
    }
}

impl Access {
    /// Gives an open file or folder this mode, and the owner.
    pub(crate) fn apply(&self, opened: &File, mode: u32) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            fchown(opened, Some(user), Some(group))?;
        }
        // After the owner: a change of the owner may clear bits.
        opened.set_permissions(Permissions::from_mode(mode))
    }
}

/// Opens a folder; no link to one.
pub(crate) fn open_folder(path: &Path) -> io::Result<File> {
    let mut options = options(OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    options.read(true).open(path)
}

/// Opens a regular file to read it; no link to one, and no pipe, which would block.
pub(crate) fn open_file(path: &Path) -> io::Result<(File, fs::Metadata)> {
    let mut options = options(OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
    let file = options.read(true).open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn options(flags: OFlags) -> io::Result<fs::OpenOptions> {
    let mut options = File::options();
    options.custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?);
    Ok(options)
}

/// Whether two descriptions are of one file or folder.
pub(crate) fn is_same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
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

/// The number of what is not whole.
fn number_of_part(name: &str) -> Option<u64> {
    let number = [PART, CHECK].iter().find_map(|end| name.strip_suffix(end));
    number.and_then(number_of)
}

fn number_of(name: &str) -> Option<u64> {
    let is_number = name.len() >= DIGITS && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| name.parse().ok()).flatten()
}
