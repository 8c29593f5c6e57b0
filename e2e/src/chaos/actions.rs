//! What the nemesis did to processes besides killing them, and the result: orderly stops and
//! damaged files.
//!
//! The nemesis writes it; the validators and the report read it.

use std::{fs, path::Path, process::ExitStatus, time::Duration};

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde::Serialize;

use super::record::Millis;
use crate::testbed::{process::Process, wait::eventually};

/// A supervisor gives its tasks 10 s.
const ORDERLY: Duration = Duration::from_secs(12);
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

/// Readers that stalled at one service, which waited for them.
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
/// When there is no process, or it logs nothing.
pub async fn stop(process: &mut Process) -> anyhow::Result<Option<String>> {
    // A service handles signals before its first log line. Before that it may not have reached its
    // own code yet, and no program can handle a signal then.
    let started = async || {
        ensure!(!process.run_output().is_empty(), "nothing is logged");
        Ok(())
    };
    eventually("the service logs its start", started).await?;
    process.signal(Signal::SIGTERM)?;
    match process.ended(ORDERLY).await {
        Ok(status) => Ok(wrong(status).map(|what| format!("{what}\n{}", process.tail()))),
        Err(error) => {
            process.kill()?;
            Ok(Some(format!("{error:#}")))
        }
    }
}

/// What is wrong with the exit status of a service that was asked to stop.
fn wrong(status: ExitStatus) -> Option<String> {
    (!status.success()).then(|| format!("asked to stop, it ended with {status}"))
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
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn only_an_end_with_success_is_orderly() {
        let [well, badly, terminated, killed] = [0, 1 << 8, 15, 9].map(ExitStatus::from_raw);
        assert_eq!(wrong(well), None);
        for status in [badly, terminated, killed] {
            assert!(wrong(status).is_some(), "{status}");
        }
    }
}
