//! The documents of the collections as Rust types, generated from `schemas/`.
