//! Files that are whole before they have their name: a program that reads one meanwhile sees the old
//! file or the new one, and a full disk leaves the old one.

use std::{
    fs::{File, Permissions},
    io,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use tempfile::{Builder, NamedTempFile};

/// A file with this content beside the one that it will be, on the disk. The mask of the caller may
/// leave less of the mode. The caller gives it its name (`persist`); without that it is removed.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn beside(path: &Path, mode: u32, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = empty_beside(path, mode)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// An empty file beside the one that it will be. [`name_new`] gives it its name; without that it is
/// removed, and where the process is killed it stays as `.tmp…part`.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn empty_beside(path: &Path, mode: u32) -> io::Result<NamedTempFile> {
    Builder::new()
        .suffix(".part")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder(path))
}

/// Gives a file its name once its content is on the disk, and brings the name there as well. A file that
/// has the name already stays.
///
/// # Errors
/// When the disk is full or fails, or another file has the name.
pub(crate) fn name_new(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}
