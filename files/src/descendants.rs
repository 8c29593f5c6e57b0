//! The processes that a command started, also those that left its group (`setsid`) and whose parent has ended.
//!
//! A command has a variable of its own in its environment, which all that it starts inherit, and Linux shows the
//! environment of a process to its user in `/proc`. It never finds a process that replaced its environment, and
//! never one that something else started. Elsewhere it finds nothing.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read as _,
    process,
    time::SystemTime,
};

use rustix::process::{Pid, Signal, kill_process};

/// Most bytes that are read of an environment.
const MAX_ENVIRONMENT: u64 = 4 << 20;
/// How often new processes are looked for: one that starts others without an end is not waited for.
const MAX_PASSES: usize = 100;

/// What marks the processes of one run of a command.
#[derive(Debug)]
pub(crate) struct Mark(String);

impl Mark {
    /// The variable that has the mark as its value.
    pub(crate) const VARIABLE: &str = "CONFCAST_COMMAND";

    /// A mark that no other run has.
    pub(crate) fn new() -> Self {
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self(format!("{}-{}", process::id(), time.as_nanos()))
    }

    pub(crate) fn value(&self) -> &str {
        &self.0
    }

    /// Kills all processes that have the mark, also those that they start meanwhile.
    pub(crate) fn kill_all(&self) {
        let mut killed = BTreeSet::new();
        for _pass in 0..MAX_PASSES {
            let found = self.processes();
            // One that was killed may need a moment to end.
            if found.is_subset(&killed) {
                return;
            }
            for id in &found {
                if let Some(id) = Pid::from_raw(*id) {
                    // An error means that it has ended, or is of another user.
                    kill_process(id, Signal::KILL).ok();
                }
            }
            killed.extend(found);
        }
    }

    fn processes(&self) -> BTreeSet<i32> {
        let variable = format!("{}={}", Self::VARIABLE, self.0);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id: &i32| has_variable(*id, variable.as_bytes()))
            .collect()
    }
}

/// Whether a process began with this variable. One that ended, or is of another user, has none.
fn has_variable(id: i32, variable: &[u8]) -> bool {
    let mut environment = Vec::new();
    let read = File::open(format!("/proc/{id}/environ"))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
    read.is_ok()
        && environment
            .split(|byte| *byte == 0)
            .any(|found| found == variable)
}
