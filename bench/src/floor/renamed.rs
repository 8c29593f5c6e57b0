//! Waits for a file that is replaced by a rename, by inotify: without a pause between two looks, and without
//! taking the processor from what is measured.

use std::{
    fs,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::{
    fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

/// The renames in a folder, and a file that is reached through it.
#[derive(Debug)]
pub(crate) struct Renames {
    events: AsyncFd<OwnedFd>,
    file: PathBuf,
}

impl Renames {
    /// Watches a folder from now on.
    #[expect(
        deprecated,
        reason = "its replacement is unsafe code; an OwnedFd is the one kind of descriptor that stays open"
    )]
    pub(crate) fn watch(folder: &Path, file: PathBuf) -> anyhow::Result<Self> {
        let events = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        add_watch(&events, folder, WatchFlags::MOVED_TO)?;
        Ok(Self {
            events: AsyncFd::new(events)?,
            file,
        })
    }

    /// The time when the file was read that begins with this text.
    pub(crate) async fn until(&self, text: &str) -> anyhow::Result<Instant> {
        loop {
            let mut ready = self.events.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut events = Reader::new(self.events.get_ref(), &mut buffer);
            loop {
                match events.next() {
                    Ok(_event) => {}
                    Err(Errno::WOULDBLOCK) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            // Another rename may have come before the first one of this file.
            if fs::read_to_string(&self.file).is_ok_and(|found| found.starts_with(text)) {
                return Ok(Instant::now());
            }
        }
    }
}
