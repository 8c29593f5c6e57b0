//! Compiles the Rust of the documents: each block tagged `rust` is a doctest of this crate.
//!
//! There is nothing here to use.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
mod embedding {}
