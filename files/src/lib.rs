//! A projection of configuration into files, for applications that read files.
//!
//! A folder has one link, `current`, to the newest *generation*: a folder of files that were rendered
//! from one view of a replica, are on the disk, and were accepted by a command. The link is replaced by one
//! rename, so a reader sees the files of one generation or of the next, and never a part of one.
//!
//! [`FileProjection`] is the loop: it gathers changes (`pace`), renders them ([`Content`]: one file for each
//! document, or templates), writes a generation (`folder`), has a copy checked (`command`), swaps the link, and
//! notifies the application (`reload`). Nothing is rendered before every collection was loaded, nor
//! while the replica is not current: the last good generation stays then, and [`Status`] says why.
//!
//! It writes to its folder and the file of its status alone, never changes a file of a generation, and never reads
//! anything back into the replica. A process may be killed at any moment.

mod attempt;
mod command;
mod config;
mod content;
mod descendants;
mod error;
mod folder;
mod generation;
mod names;
mod opening;
mod pace;
mod preview;
mod progress;
mod projection;
mod proven;
mod reload;
mod status;
mod templates;
mod values;

pub use command::{CommandLine, CommandLineError};
pub use config::FilesConfig;
pub use content::{Content, Limits, RenderedFile};
pub use error::FilesError;
pub use folder::{Access, LINK};
pub use pace::Pace;
pub use preview::{FileChange, preview};
pub use projection::FileProjection;
pub use reload::{Reload, SignalName};
pub use status::{FilesState, ReloadState, Status};

#[cfg(test)]
mod tests;
