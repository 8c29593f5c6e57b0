//! The last known good configuration on disk: with it a replica starts when everything else is down.
//!
//! `schedule` decides when the image is read and written, `file` how. A disk that fails costs a
//! line in the log and nothing else.

mod cursors;
mod file;
mod schedule;

pub(crate) use cursors::StreamCursors;
pub(crate) use file::ImageFile;
pub use schedule::CopyOnDisk;
pub(crate) use schedule::Persistence;
