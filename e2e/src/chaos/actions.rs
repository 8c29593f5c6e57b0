//! What the nemesis did to processes besides killing them, and the result: orderly stops and
//! damaged files.
//!
//! The nemesis writes it; the validators and the report read it.

use std::{fs, os::unix::process::ExitStatusExt, path::Path, process::ExitStatus, time::Duration};

use nix::sys::signal::Signal;
use serde::Serialize;

use super::record::Millis;
use crate::testbed::process::Process;

/// A supervisor gives its tasks 10 s.
const ORDERLY: Duration = Duration::from_secs(12);
/// Log texts from which on a publisher or a subscriber handles signals.
const UP: [&str; 2] = ["the publisher is up", " listens on "];
/// The file with the last known good values of a replica.
const KEPT: &str = "last-known-good";

/// The actions so far.
#[derive(Debug, Default)]
pub struct Actions {
    /// Orderly stops.
    pub stops: Vec<Stop>,
    /// Readers that stalled.
    pub stalls: Vec<Stall>,
    /// Files with last known good values that were truncated or garbled.
    pub spoilt: usize,
    /// Runs with a shifted wall clock.
    pub shifted: usize,
}

/// Readers that stalled at one service.
#[derive(Debug, Clone, Serialize)]
pub struct Stall {
    /// Name of the component.
    pub who: String,
    /// When they began.
    pub at: Millis,
    /// What was wrong with their end, if anything.
    pub wrong: Option<String>,
}

/// One orderly stop.
#[derive(Debug, Clone, Serialize)]
pub struct Stop {
    /// Name of the component.
    pub who: String,
    /// Time of the signal.
    pub asked: Millis,
    /// Time until the process ended.
    pub took: Duration,
    /// What was wrong with the stop, if anything.
    pub wrong: Option<String>,
}

/// Sends SIGTERM and waits for the end; a process that does not end in time is killed. Returns what
/// was wrong with the stop, if anything.
///
/// Database, broker and links may be unavailable meanwhile: a service must stop then too. The
/// process itself is not frozen, because the caller holds its lock.
///
/// # Errors
/// When there is no process.
pub async fn stop(process: &mut Process) -> anyhow::Result<Option<String>> {
    let said = process.run_output();
    let up = UP.iter().any(|up| said.contains(up));
    process.signal(Signal::SIGTERM)?;
    match process.ended(ORDERLY).await {
        Ok(status) => Ok(wrong(status, up).map(|what| format!("{what}\n{}", process.tail()))),
        Err(error) => {
            process.kill()?;
            Ok(Some(format!("{error:#}")))
        }
    }
}

/// What is wrong with the exit status of a service that did, or did not, handle signals already.
fn wrong(status: ExitStatus, up: bool) -> Option<String> {
    // The signal came before its handler was installed. There was nothing to finish yet.
    let early = !up && status.signal() == Some(Signal::SIGTERM as i32);
    (!status.success() && !early).then(|| format!("asked to stop, it ended with {status}"))
}

/// Truncates or garbles every file of a folder, if the folder exists. Returns whether the file that
/// a replica starts from is among them.
///
/// # Errors
/// When a file cannot be read or written.
pub fn spoil(folder: &Path, salt: u64) -> anyhow::Result<bool> {
    let Ok(entries) = folder.read_dir() else {
        return Ok(false);
    };
    let mut spoilt = false;
    for entry in entries {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let mut bytes = fs::read(&path)?;
        let at = (salt / 3) as usize % bytes.len().max(1);
        match salt % 3 {
            0 => bytes.truncate(at),
            1 => bytes
                .iter_mut()
                .skip(at)
                .take(16)
                .for_each(|byte| *byte ^= 0x55),
            _ => bytes.clear(),
        }
        fs::write(&path, bytes)?;
        spoilt |= path.ends_with(KEPT);
    }
    Ok(spoilt)
}

/// From a replica's log: the number of starts from disk, and the number of damaged files found.
pub fn starts(output: &str) -> (usize, usize) {
    let count = |what: &str| output.lines().filter(|line| line.contains(what)).count();
    (
        count("serves the last known good"),
        count("on disk is damaged, the replica starts without it"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_end_is_classified_as_orderly_or_not() {
        let [well, badly, terminated, killed] = [0, 1 << 8, 15, 9].map(ExitStatus::from_raw);
        for up in [false, true] {
            assert!(
                wrong(well, up).is_none()
                    && wrong(badly, up).is_some()
                    && wrong(killed, up).is_some()
            );
            assert_eq!(wrong(terminated, up).is_some(), up);
        }
    }
}
