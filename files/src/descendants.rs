//! The processes that a command started, also those that left its group (`setsid`) and whose parent has ended.
//!
//! A command has a variable of its own in its environment, which all that it starts inherit, and Linux shows the
//! environment of a process to its user in `/proc`. It never finds a process that replaced its environment, and
//! never one that something else started. Elsewhere, and before Linux 5.3, it finds nothing.

use std::{collections::BTreeSet, fs, process, time::SystemTime};

/// Most bytes that are read of an environment.
#[cfg(target_os = "linux")]
const MAX_ENVIRONMENT: u64 = 4 << 20;
/// How often new processes are looked for: one that starts others without an end is not waited for.
const MAX_PASSES: usize = 100;

/// What marks the processes of one run of a command.
#[derive(Debug, Clone)]
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

    /// Kills all processes that have the mark, also those that they start meanwhile. It blocks.
    pub(crate) fn kill_all(&self) {
        let mut killed = BTreeSet::new();
        for _pass in 0..MAX_PASSES {
            let found = self.kill_found();
            // One that was killed may need a moment to end.
            if found.is_subset(&killed) {
                return;
            }
            killed.extend(found);
        }
    }

    /// Kills all processes that have the mark now, and gives their numbers.
    fn kill_found(&self) -> BTreeSet<i32> {
        let variable = format!("{}={}", Self::VARIABLE, self.0);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id| kill_marked(*id, variable.as_bytes()))
            .collect()
    }
}

/// Kills a process if it began with this variable; whether it did.
#[cfg(target_os = "linux")]
fn kill_marked(id: i32, variable: &[u8]) -> bool {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    // Before its environment is read: the number may be that of another process after that.
    let process = Pid::from_raw(id).and_then(|id| pidfd_open(id, PidfdFlags::empty()).ok());
    let Some(process) = process.filter(|_process| has_variable(id, variable)) else {
        return false;
    };
    // An error means that it has ended, or is of another user.
    pidfd_send_signal(process, Signal::KILL).ok();
    true
}

#[cfg(not(target_os = "linux"))]
fn kill_marked(_id: i32, _variable: &[u8]) -> bool {
    false
}

/// Whether a process began with this variable. One that ended, or is of another user, has none.
#[cfg(target_os = "linux")]
fn has_variable(id: i32, variable: &[u8]) -> bool {
    use std::{fs::File, io::Read as _};

    let mut environment = Vec::new();
    let read = File::open(format!("/proc/{id}/environ"))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
    read.is_ok()
        && environment
            .split(|byte| *byte == 0)
            .any(|found| found == variable)
}
