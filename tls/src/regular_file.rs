//! Reading a file that people put somewhere, while the process runs.
//!
//! Only a regular file of bounded size is read, so no read waits for another program: opening a named
//! pipe without `O_NONBLOCK` waits for a writer, perhaps for ever, and a device may have no end.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// The bits of a mode that let every user of the host read or change a file.
const OTHERS: u32 = 0o006;

/// The mode of a file that every user of the host can read or change; `None` for any other file. A
/// private key should be in no such file.
pub fn open_to_all(path: &Path) -> Option<u32> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & OTHERS != 0).then_some(mode)
}

/// Reads a regular file of at most `most` bytes. A symbolic link is followed.
///
/// # Errors
/// When it cannot be opened or read, is no regular file, or is larger. The text does not name the
/// file.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?)
        .open(path)?;
    // Of the open file: the path may name another one by now.
    let kind = file.metadata()?;
    if !kind.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file (a folder, a named pipe or a device)",
        ));
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file is larger than {most} bytes"),
        ));
    }
    Ok(bytes)
}
