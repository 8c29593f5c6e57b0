//! Limits that the operating system sets for the process.
//!
//! This module raises a limit up to the maximum that an unprivileged process may set, never beyond.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard limit.
///
/// Every connection is an open file. The default soft limit (often 1,024) exists for programs that
/// use `select(2)`, which cannot handle larger file descriptors; this process does not use it.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("the limit of open files could not be raised and stays as it is: {error}");
    }
}
