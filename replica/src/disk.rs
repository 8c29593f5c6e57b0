//! Last known good: what is held, kept in a file, so that a replica starts when everything else is
//! down.
//!
//! The file is written whole beside the old one and renamed over it, so there is always one that is
//! complete. One that is damaged is never used; it is moved aside, in place of the one before.
//! Nothing here decides what a replica makes of it.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use state::{
    Image, Root,
    image::{ImageError, ImageMeta},
};

/// Name of the file in its folder.
const FILE: &str = "last-known-good";

/// The folder of the file.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    folder: PathBuf,
    /// Two processes that share the folder by mistake never write into one file.
    boot_id: String,
    /// One write at a time: at the end of the process one may still be under way when the last one
    /// begins.
    writing: Arc<Mutex<()>>,
}

impl Disk {
    pub(crate) fn new(folder: PathBuf, boot_id: &str) -> Self {
        Self {
            folder,
            boot_id: boot_id.to_owned(),
            writing: Arc::default(),
        }
    }

    /// What was kept; `None` when nothing was. A damaged file is moved aside first, and then it is
    /// as if there were none.
    pub(crate) fn read(&self) -> std::io::Result<Option<Image>> {
        self.sweep()?;
        let path = self.path();
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        match Image::read(BufReader::new(file)) {
            Ok(image) => Ok(Some(image)),
            Err(damage) => {
                self.move_aside(&path, &damage)?;
                Ok(None)
            }
        }
    }

    /// Removes what processes left half written that were killed.
    fn sweep(&self) -> std::io::Result<()> {
        let entries = match self.folder.read_dir() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name.starts_with(FILE) && name.ends_with(".new") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn move_aside(&self, path: &Path, damage: &ImageError) -> std::io::Result<()> {
        let aside = path.with_extension("damaged");
        fs::rename(path, &aside)?;
        let aside = aside.display();
        tracing::warn!(
            "the last known good configuration on disk is damaged and was moved to {aside}: {damage}"
        );
        Ok(())
    }

    /// Keeps what is held.
    pub(crate) fn write(&self, root: &Root, notes: &ImageMeta) -> std::io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(&self.folder)?;
        let (path, new) = (
            self.path(),
            self.folder.join(format!("{FILE}.{}.new", self.boot_id)),
        );
        let written = write_durably(&new, root, notes).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            // What is half written helps nobody; the old file is still there.
            fs::remove_file(&new).or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
        written?;
        // Until then the new name may be lost in a power cut, and the old file with it on some file
        // systems.
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }
}

fn write_durably(path: &Path, root: &Root, notes: &ImageMeta) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    root.write_image(notes, &mut out)?;
    out.flush()?;
    out.get_ref().sync_all()
}
