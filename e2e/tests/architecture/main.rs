//! The architecture as tests: which crate may depend on which, and which files may name a library.
//! Arrows between crates and the modules of the codemap are read from `ARCHITECTURE.md`; the other
//! lists are here and in its invariants. No server is needed.
//!
//! A failure names the offender and says what to do. To allow something new, change the list in the
//! same commit, with the reason.

mod codemap;
mod crates;
mod sources;
