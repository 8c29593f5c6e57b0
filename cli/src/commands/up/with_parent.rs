//! A program that ends with its parent, even if the parent is killed and cannot stop its children.
//!
//! `confcast up` starts its services as `confcast with-parent PID PROGRAM`: the kernel accepts this
//! request only from the child itself, and keeps it when the child executes another program.

use std::{os::unix::process::CommandExt, path::PathBuf, process::Command};

use anyhow::Context;

/// Execute PROGRAM, which gets SIGTERM when the process PID ends
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
            // The parent may have ended before the request.
            let alive = getppid().is_some_and(|parent| parent.as_raw_pid() == self.parent);
            anyhow::ensure!(alive, "the parent has ended already");
        }
        Err(Command::new(&self.program).exec())
            .with_context(|| format!("cannot run {}", self.program.display()))
    }
}
