//! The file of the last known good configuration.
//!
//! The file is written whole beside the old one and renamed over it, so there is always a complete
//! one. A damaged file is never used: it is moved aside and replaces the damaged file before it.
//! Nothing here decides what becomes of the content.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufReader, BufWriter, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use contract::text::Escaped;
use state::{
    Image, Root,
    image::{ImageError, ImageMeta},
};

/// Name of the file in its directory.
const FILE: &str = "last-known-good";

/// The file, by its directory.
#[derive(Debug, Clone)]
pub(crate) struct ImageFile {
    /// Where the file is. It is created by the first write.
    directory: PathBuf,
    /// Two processes that share the directory by mistake never write into one file.
    boot_id: String,
    /// One write at a time: at the end of the process one may still be under way when the last
    /// write begins.
    writing: Arc<Mutex<()>>,
}

impl ImageFile {
    /// The file in `directory`, written by the process with this boot id. Nothing is read yet.
    pub(crate) fn new(directory: PathBuf, boot_id: &str) -> Self {
        Self {
            directory,
            boot_id: boot_id.to_owned(),
            writing: Arc::default(),
        }
    }

    /// The directory, for messages.
    pub(crate) fn folder(&self) -> String {
        Escaped(self.directory.display()).to_string()
    }

    /// Reads the file; `None` when there is none. A damaged file is moved aside, and then there is
    /// none.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn read(&self) -> std::io::Result<Option<Image>> {
        self.remove_partial_files()?;
        let path = self.path();
        let file = match File::open(&path) {
            // The first start, or nothing was saved yet.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        match Image::read(BufReader::new(file)) {
            Ok(image) => Ok(Some(image)),
            // The replica loads from a publisher instead; a damaged file never decides anything.
            Err(damage) => {
                self.move_aside(&path, &damage)?;
                Ok(None)
            }
        }
    }

    /// Removes the partial files of processes that were killed.
    fn remove_partial_files(&self) -> std::io::Result<()> {
        let entries = match self.directory.read_dir() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            // Other files in the directory belong to others.
            if name.starts_with(FILE) && name.ends_with(".new") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Renames a file that cannot be used: a damaged one for a person to look at, and one of another
    /// version for that version. It is not read again.
    fn move_aside(&self, path: &Path, reason: &ImageError) -> std::io::Result<()> {
        let (what, extension) = match reason {
            ImageError::Format(format) => ("of another version", format!("format-{format}")),
            _ => ("damaged", "damaged".to_owned()),
        };
        let aside = path.with_extension(extension);
        fs::rename(path, &aside)?;
        let aside = aside.display();
        tracing::warn!(
            "the last known good configuration on disk is {what}, the replica starts without it and moved it to {aside}: {reason}"
        );
        Ok(())
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When the disk fails. The old file stays then.
    pub(crate) fn write(&self, root: &Root, meta: &ImageMeta) -> std::io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(&self.directory)?;
        let path = self.path();
        // Beside the old file, because only within one file system a rename is a single step.
        let new = self.directory.join(format!("{FILE}.{}.new", self.boot_id));
        let written = write_durably(&new, root, meta).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            // The partial file is of no use; the old file is still there.
            fs::remove_file(&new).or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
        written?;
        // Before this the new name may be lost in a power cut, on some file systems together with
        // the old file.
        File::open(&self.directory)?.sync_all()
    }

    /// Where the complete file is.
    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }
}

/// Writes a new file and waits until the disk has it: only then may it replace the old one.
fn write_durably(path: &Path, root: &Root, meta: &ImageMeta) -> std::io::Result<()> {
    // The configuration may hold secrets of others: only the user of the process reads the file.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    // An image is written in many small pieces.
    let mut out = BufWriter::new(file);
    root.write_image(meta, &mut out)?;
    out.flush()?;
    out.get_ref().sync_all()
}
