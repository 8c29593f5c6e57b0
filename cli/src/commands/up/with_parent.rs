//! A program that ends with its parent, even if that is killed and can tell nobody.
//!
//! `confcast up` starts its services as `confcast with-parent PID PROGRAM`: the request must come
//! from the child itself, and it outlives the change into another program.

use std::{os::unix::process::CommandExt, path::PathBuf, process::Command};

use anyhow::Context;

/// Become PROGRAM, which is told to stop when the process PID ends
#[derive(Debug, clap::Args)]
pub(crate) struct WithParent {
    parent: i32,
    program: PathBuf,
}

impl WithParent {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{Signal, getppid, set_parent_process_death_signal};
            set_parent_process_death_signal(Some(Signal::TERM))
                .context("cannot tie this process to its parent")?;
            // The parent may have been gone before the request.
            let alive = getppid().is_some_and(|parent| parent.as_raw_pid() == self.parent);
            anyhow::ensure!(alive, "the parent is gone already");
        }
        Err(Command::new(&self.program).exec())
            .with_context(|| format!("cannot run {}", self.program.display()))
    }
}
