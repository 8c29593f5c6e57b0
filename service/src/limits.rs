//! What the system lets a process have.
//!
//! It raises what the process may raise by itself, and never asks for more.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Allows as many open files, and so connections, as the administrator does. The default below that
/// is for programs which know no better than to count files by bits.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("the number of open files stays as it was: {error}");
    }
}
