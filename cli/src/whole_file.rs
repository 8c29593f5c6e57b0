//! Files that are whole before they have their name: a program that reads one meanwhile sees the old
//! file or the new one, and a full disk leaves the old one.

use std::{fs::Permissions, io, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::{Builder, NamedTempFile};

/// A file with this content beside the one that it will be, on the disk. The mask of the caller may
/// leave less of the mode. The caller gives it its name (`persist`); without that it is removed.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn beside(path: &Path, mode: u32, content: &[u8]) -> io::Result<NamedTempFile> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut file = Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}
