//! What was done to processes of ours beside killing them, and what came of it: orderly ends and
//! spoilt files.
//!
//! The nemesis notes it; the judge and the report read it.

use std::{fs, os::unix::process::ExitStatusExt, path::Path, process::ExitStatus, time::Duration};

use nix::sys::signal::Signal;
use serde::Serialize;

use super::record::Millis;
use crate::testbed::process::Process;

/// A supervisor gives its tasks 10 s, whatever they wait for.
const ORDERLY: Duration = Duration::from_secs(12);
/// What a publisher or a subscriber says when it answers, and from when on it knows what a signal
/// means.
const UP: [&str; 2] = ["the publisher is up", " listens on "];
/// The file that replicas keep.
const KEPT: &str = "last-known-good";

/// What was done.
#[derive(Debug, Default)]
pub struct Actions {
    /// The orderly ends that were asked for.
    pub stops: Vec<Stop>,
    /// Files with last known good values that were truncated or garbled.
    pub spoilt: usize,
    /// Lives with a shifted wall clock.
    pub shifted: usize,
}

/// An orderly end that was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Stop {
    /// Who was asked.
    pub who: String,
    /// When.
    pub asked: Millis,
    /// How long it took.
    pub took: Duration,
    /// What was not orderly.
    pub wrong: Option<String>,
}

/// Asks for an orderly end and waits for it; one that does not come is made an end. What was not
/// orderly.
///
/// Database, broker and links may be away or silent meanwhile: a service that cannot be stopped
/// just then is what operators meet first. Nobody freezes the process itself, whoever asks holds
/// it.
///
/// # Errors
/// When there is no process.
pub async fn stop(process: &mut Process) -> anyhow::Result<Option<String>> {
    let said = process.said();
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

/// What is wrong with such an end of a service that was up or was not.
fn wrong(status: ExitStatus, up: bool) -> Option<String> {
    // It came before anybody listened for it; there was nothing yet to put in order.
    let early = !up && status.signal() == Some(Signal::SIGTERM as i32);
    (!status.success() && !early).then(|| format!("asked to stop, it ended with {status}"))
}

/// Truncates or garbles every file of a folder, if there is one. Whether what a replica would start
/// from is among them.
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

/// How often a replica said that it starts from its disk, and how often that what lay there was
/// damaged.
pub fn starts(output: &str) -> (usize, usize) {
    let count = |what: &str| output.lines().filter(|line| line.contains(what)).count();
    (
        count("serves its last known good"),
        count("on disk is damaged and was moved"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_orderly_or_not() {
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
