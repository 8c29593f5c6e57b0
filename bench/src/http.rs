//! An HTTP server in its own threads, which ends when it is dropped. It knows nothing of its
//! content.

use std::thread::JoinHandle;

use actix_web::{
    dev::{Server, ServerHandle},
    rt::System,
};
use anyhow::Context;

/// A running server.
#[derive(Debug)]
pub(crate) struct Http {
    handle: ServerHandle,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Http {
    /// Starts the server on an open port.
    pub(crate) fn run(server: Server) -> anyhow::Result<Self> {
        let handle = server.handle();
        let thread = std::thread::Builder::new().name("http".to_owned());
        let thread = thread
            .spawn(move || System::new().block_on(server))
            .context("a thread for a server")?;
        Ok(Self {
            handle,
            thread: Some(thread),
        })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // The call itself stops the server. Its future would only wait for the end, as joining the
        // thread does.
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
