//! The architecture as tests: which crate may depend on which, and which files may name a library.
//! `ARCHITECTURE.md` prints the same lists. No server is needed.
//!
//! A failure names the offender and says what to do. To allow something new, change the list here
//! and `ARCHITECTURE.md` in the same commit, with the reason.

mod crates;
mod sources;
