//! Detects unlimited growth of a process: compares memory, threads and open files at the start and
//! at the end of one process run.
//!
//! The limits are generous, because caches fill and pools grow. In a long campaign a serious leak
//! exceeds any limit.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// The resources of a process at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The process.
    pub pid: u32,
    /// Resident memory in KiB.
    pub kib: u64,
    /// Threads.
    pub threads: u64,
    /// Open files and sockets.
    pub files: u64,
    /// Size of its files on disk in KiB.
    pub disk_kib: u64,
}

impl Sample {
    /// Measures a running process that keeps its files directly in `folder`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn of(pid: u32, folder: Option<&Path>) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .context("a line of /proc")?;
            anyhow::Ok(
                line.split_whitespace()
                    .next()
                    .context("a number")?
                    .parse()?,
            )
        };
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        Ok(Self {
            pid,
            kib: number("VmRSS:")?,
            threads: number("Threads:")?,
            files,
            disk_kib: folder.map_or(0, size) >> 10,
        })
    }
}

/// Bytes of the files of a folder. A file that is removed meanwhile has none.
fn size(folder: &Path) -> u64 {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    sizes.sum()
}

/// Lists the resources that grew beyond the limits between two measurements of one process run.
pub fn grew(first: Sample, last: Sample) -> Option<String> {
    let beyond = |first: u64, last: u64, more: u64| last > first * 2 + more;
    let grown = beyond(first.kib, last.kib, 128 << 10)
        || beyond(first.threads, last.threads, 32)
        || beyond(first.files, last.files, 128)
        // The write-ahead log of a store that a reader keeps open grows by 2 MiB a second.
        || beyond(first.disk_kib, last.disk_kib, 24 << 10);
    grown.then(|| format!("from {first:?} to {last:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_reported_and_a_filled_cache_is_not() {
        let first = Sample {
            pid: 1,
            kib: 40 << 10,
            threads: 8,
            files: 60,
            disk_kib: 4 << 10,
        };
        assert_eq!(
            grew(
                first,
                Sample {
                    kib: 90 << 10,
                    threads: 12,
                    files: 150,
                    ..first
                }
            ),
            None
        );
        assert!(
            grew(
                first,
                Sample {
                    kib: 300 << 10,
                    ..first
                }
            )
            .is_some(),
            "memory"
        );
        assert!(
            grew(
                first,
                Sample {
                    threads: 100,
                    ..first
                }
            )
            .is_some(),
            "tasks"
        );
        assert!(
            grew(
                first,
                Sample {
                    files: 1_000,
                    ..first
                }
            )
            .is_some(),
            "connections"
        );
        assert!(
            grew(
                first,
                Sample {
                    disk_kib: 40 << 10,
                    ..first
                }
            )
            .is_some(),
            "files"
        );
        assert!(
            Sample::of(std::process::id(), Some(Path::new("."))).is_ok_and(|own| own.kib > 0
                && own.disk_kib > 0
                && own.files > 0
                && own.threads > 0)
        );
    }
}
