//! The documents of the collections as Rust types, generated from `schemas/` by `confcast schemas`.
//!
//! A type says which fields a document has and of which kind. Whether their values are valid is the
//! schema's to say, and the publisher has asked it; nothing here checks, fetches or logs. What is
//! read and written again is the same document: absent, null and empty are told apart
//! (`Option<Option<T>>` is absent, null or a value), and numbers without the type `integer` are
//! doubles.
//!
//! **Unknown fields are passed by**, so that a consumer of today reads the document of tomorrow;
//! what it writes lacks them. An unknown value of an enumeration is an error, because nobody could
//! say what to do then.

// As the generator formats it.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::doc_markdown, rustdoc::all, reason = "generated")]
mod generated;

pub use generated::*;
