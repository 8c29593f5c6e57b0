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

/// Most connections of the server of this process.
const MAX_CONNECTIONS: usize = 20_000;
/// Open files for everything but connections of the server: the store, publishers, Redis, the
/// runtime; and connections that are closed, until their tasks end.
const OTHER_FILES: usize = 40;
/// Fewest connections, however few files may be open.
const MIN_CONNECTIONS: usize = 8;

/// How many connections the server of this process may have where no setting says so: what the limit
/// of open files leaves, 20,000 at most. Call it after [`raise_open_files`].
pub fn max_connections() -> usize {
    connections_of_files().min(MAX_CONNECTIONS)
}

/// How many connections the limit of open files leaves. Call it after [`raise_open_files`].
pub fn connections_of_files() -> usize {
    let files = getrlimit(Resource::Nofile).current;
    // No limit is more than enough.
    let files = files.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    // A quarter is left for what grows with the load: connections to stores and to subscribers.
    (files / 4 * 3)
        .min(files.saturating_sub(OTHER_FILES))
        .max(MIN_CONNECTIONS)
}
