//! The signals that a program handles: the services and the commands alike. Nothing is stopped here.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A file would pass the limit of the process for the size of a file (`RLIMIT_FSIZE`).
const FILE_SIZE: SignalKind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());

/// The requests to stop that this process receives: SIGTERM (orchestrators) and SIGINT (Ctrl-C).
///
/// Until it exists, the default action of both signals ends the process in the middle of its work.
/// So a process makes it first of all, and awaits it while it starts and while it serves.
/// SIGXFSZ is handled as well and asks for nothing: the write that passed the limit of a file's size
/// fails with `EFBIG`, as one on a full disk does.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// Never read: while it is handled it does not end the process.
    _file_size: Signal,
}

impl StopSignals {
    /// Receives the signals from now on. None ends the process by itself any more, also after
    /// the value is dropped.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_size: signal(FILE_SIZE)?,
        })
    }

    /// Resolves at the next signal, also when it came between two calls.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
