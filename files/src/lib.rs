//! A projection of configuration into files, for applications that read files.
//!
//! A folder has one link, `current`, to the newest *generation*: a folder of files that were rendered
//! from one view of a replica, are on the disk, and were accepted by a command. The link is replaced by one
//! rename, so a reader sees the files of one generation or of the next, and never a part of one.
//!
//! [`FileProjection`] is the loop: it gathers changes (`pace`), renders them ([`Content`]: one file for each
//! document, or templates), writes a generation (`folder`), checks it (`command`), swaps the link, and
//! notifies the application (`reload`). Nothing is rendered before every collection was loaded, nor
//! while the replica is not current: the last good generation stays then, and [`Status`] says why.
//!
//! It never writes outside of its folder, never changes a file of a generation, and never reads
//! anything back into the replica. A process may be killed at any moment.

mod command;
mod content;
mod error;
mod folder;
mod generation;
mod names;
mod opening;
mod pace;
mod projection;
mod reload;
mod status;
mod templates;
mod values;

pub use command::{CommandLine, CommandLineError};
pub use content::{Content, Limits, RenderedFile};
pub use error::FilesError;
pub use folder::{Access, LINK};
pub use pace::Pace;
pub use projection::{FileChange, FileProjection, FilesConfig, preview};
pub use reload::{Reload, SignalName};
pub use status::{FilesState, ReloadState, Status};

#[cfg(test)]
mod tests;
