//! A generation that is being written. It has no name that a reader sees until it was published, and is
//! removed when it is dropped before.
//!
//! A file that is as in the current generation is not written again but linked: that costs neither bytes nor
//! a sync, and the time of a file says when its content changed. So a command that writes is given a copy: what
//! it changed would else be changed in earlier generations as well.
//!
//! Files and names are brought to the disk together, when the generation is published: most file systems then
//! write their journal once.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, Metadata},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Access, FilesError, RenderedFile,
    error::at_path,
    folder::{self, Folder},
};

/// A generation that is being written.
#[derive(Debug)]
pub(crate) struct Generation {
    folder: Arc<Folder>,
    number: u64,
    path: PathBuf,
    /// The current generation.
    base: Option<PathBuf>,
    /// Its folders, itself included; relative paths.
    folders: BTreeSet<PathBuf>,
    files: usize,
    /// Whether a file is not as in the current generation.
    differs: bool,
    /// The files that are not linked to the current generation; relative paths.
    written: Vec<PathBuf>,
    is_published: bool,
}

impl Generation {
    /// An empty one.
    pub(crate) fn begin(folder: &Arc<Folder>) -> Result<Self, FilesError> {
        let number = folder.next()?;
        let path = folder.part_of(number);
        new_folder(&path, &folder.access)?;
        Ok(Self {
            number,
            base: folder.current()?.map(|current| folder.path_of(current)),
            folder: Arc::clone(folder),
            folders: BTreeSet::from([PathBuf::new()]),
            path,
            files: 0,
            differs: false,
            written: Vec::new(),
            is_published: false,
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Adds a file.
    pub(crate) fn write(&mut self, file: &RenderedFile) -> Result<(), FilesError> {
        let path = self.path.join(&file.path);
        self.make_folders_of(Path::new(&file.path))?;
        self.files += 1;
        let access = self.folder.access;
        let mode = mode_of(file, &access);
        if let Some(base) = &self.base {
            let old = base.join(&file.path);
            match same(&old, &file.content, mode, &access) {
                // Not every file system has links.
                Some(same) if is_linked(&old, &path, &same)? => return Ok(()),
                Some(_same) => {}
                None => self.differs = true,
            }
        }
        self.written.push(PathBuf::from(&file.path));
        // Never over a file that is there: two names may be one file on this file system.
        let created = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let mut created = match created {
            Ok(created) => created,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(FilesError::SameFile(file.path.clone()));
            }
            Err(error) => return Err(at_path(path)(error)),
        };
        let written = created
            .write_all(&file.content)
            .and_then(|()| access.apply(&created, mode));
        written.map_err(at_path(path))
    }

    /// Whether it differs from the current generation.
    pub(crate) fn is_changed(&self) -> Result<bool, FilesError> {
        let Some(base) = &self.base else {
            return Ok(true);
        };
        if self.differs {
            return Ok(true);
        }
        let before = match files_below(base) {
            Ok(files) => files.len(),
            // Somebody removed it.
            Err(_error) => return Ok(true),
        };
        Ok(before != self.files)
    }

    /// A copy of all files. It belongs to this process: another owner of the files could else exchange them
    /// while a command of this process reads them.
    pub(crate) fn copy(&self) -> Result<GenerationCopy, FilesError> {
        let access = &Access {
            owner: None,
            ..self.folder.access
        };
        let to = self.folder.check_of(self.number);
        new_folder(&to, access)?;
        let copy = GenerationCopy(to);
        // The outermost first; itself is there.
        for folder in self.folders.iter().skip(1) {
            new_folder(&copy.0.join(folder), access)?;
        }
        for file in files_below(&self.path).map_err(at_path(&self.path))? {
            let (from, to) = (self.path.join(&file), copy.0.join(&file));
            // With its mode.
            fs::copy(from, &to).map_err(at_path(to))?;
        }
        Ok(copy)
    }

    /// Brings everything to the disk, and makes it the current generation.
    pub(crate) fn publish(mut self) -> Result<(), FilesError> {
        let access = self.folder.access;
        // What has this path now may be of another process.
        self.folder.ensure_locked()?;
        // Before another owner can replace a name.
        for file in &self.written {
            folder::sync(&self.path.join(file))?;
        }
        // The innermost first.
        for folder in self.folders.iter().rev() {
            let folder = self.path.join(folder);
            let synced = folder::open_folder(&folder).and_then(|opened| {
                if access.owner.is_some() {
                    access.apply(&opened, access.folder_mode())?;
                }
                opened.sync_all()
            });
            synced.map_err(at_path(&folder))?;
        }
        self.folder.name(self.number)?;
        self.folder.swap(self.number)?;
        self.is_published = true;
        Ok(())
    }

    /// `file` is a relative path.
    fn make_folders_of(&mut self, file: &Path) -> Result<(), FilesError> {
        let mut missing: Vec<_> = file
            .ancestors()
            .skip(1)
            .filter(|parent| !self.folders.contains(*parent))
            .map(Path::to_path_buf)
            .collect();
        // The outermost first.
        missing.reverse();
        for parent in missing {
            let made = new_folder(&self.path.join(&parent), &self.folder.access);
            made.map_err(|error| match error {
                // A file has the name of a folder.
                FilesError::Io { reason, .. } if reason.kind() == io::ErrorKind::AlreadyExists => {
                    FilesError::SameFile(parent.to_string_lossy().into_owned())
                }
                error => error,
            })?;
            self.folders.insert(parent);
        }
        Ok(())
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // What is there now may be of another process.
        if self.is_published || self.folder.ensure_locked().is_err() {
            return;
        }
        // What cannot be removed now is removed before the next one.
        fs::remove_dir_all(&self.path).ok();
        // It has its name when the link could not be made. Many attempts would fill the disk.
        if !matches!(self.folder.current(), Ok(Some(current)) if current == self.number) {
            fs::remove_dir_all(self.folder.path_of(self.number)).ok();
        }
    }
}

/// A copy of a generation for a command that may write. It is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct GenerationCopy(PathBuf);

impl GenerationCopy {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for GenerationCopy {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next one.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The files below a folder, relative to it, with `/` between parts.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else if let Ok(relative) = entry.path().strip_prefix(folder) {
                files.push(relative.to_path_buf());
            }
        }
    }
    Ok(files)
}

fn mode_of(file: &RenderedFile, access: &Access) -> u32 {
    match file.has_secrets {
        true => access.secret_mode,
        false => access.mode,
    }
}

/// With another owner of the files it stays that of this process, and closed, until it is handed over.
fn new_folder(path: &Path, access: &Access) -> Result<(), FilesError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    let made = made.and_then(|()| match access.owner {
        Some(_) => Ok(()),
        None => access.apply(&folder::open_folder(path)?, access.folder_mode()),
    });
    made.map_err(at_path(path))
}

/// The file that has this content, mode and owner.
fn same(path: &Path, content: &[u8], mode: u32, access: &Access) -> Option<Metadata> {
    let (file, metadata) = folder::open_file(path).ok()?;
    let owner = access.owner;
    let is_owned = owner.is_none_or(|owner| owner == (metadata.uid(), metadata.gid()));
    if metadata.len() != content.len() as u64 || metadata.mode() & 0o7777 != mode || !is_owned {
        return None;
    }
    let mut old = Vec::with_capacity(content.len());
    // It may grow meanwhile.
    let read = file.take(content.len() as u64 + 1).read_to_end(&mut old);
    (read.is_ok() && old == content).then_some(metadata)
}

/// Links a file that was read. Its owner may have put another one in its place meanwhile, which is not linked.
fn is_linked(old: &Path, new: &Path, read: &Metadata) -> Result<bool, FilesError> {
    if fs::hard_link(old, new).is_err() {
        return Ok(false);
    }
    let linked = fs::symlink_metadata(new).map_err(at_path(new))?;
    let is_same = folder::is_same_file(read, &linked);
    if !is_same {
        fs::remove_file(new).map_err(at_path(new))?;
    }
    Ok(is_same)
}
