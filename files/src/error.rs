//! Why there is no new generation. Every message stands alone and says what to do where that is known; the
//! last good generation stays in all cases.

use std::{io, path::PathBuf, time::Duration};

use contract::text::paths::ShownPath;

/// Why there is no new generation.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file or folder cannot be read or written: a full disk, missing rights.
    #[error("{}: {reason}", ShownPath(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why. No `source`: a reader that prints all causes would print it twice.
        reason: io::Error,
    },
    /// Another process writes to the folder.
    #[error(
        "{}: another `confcast files` writes to this folder; give each its own folder",
        ShownPath(.0)
    )]
    Locked(PathBuf),
    /// The folder, or the file in it, is no longer the one that this process has locked.
    #[error(
        "{}: it was replaced or removed after this process had started, so another one may write to the \
         folder: start this one again",
        ShownPath(.0)
    )]
    Replaced(PathBuf),
    /// The name of the link is taken by something else.
    #[error("{}: it is no link that `confcast files` made; name an empty folder", ShownPath(.0))]
    NoLink(PathBuf),
    /// A template cannot be read or rendered.
    #[error("the template {template}{}: {reason}{}", at(*line), reading(document.as_deref()))]
    Template {
        /// Its path in the folder of the templates.
        template: String,
        /// The line, from 1.
        line: Option<usize>,
        /// `COLLECTION/ID` of the document that it read last.
        document: Option<String>,
        /// Why, without a part of a secret.
        reason: String,
    },
    /// The folder of templates cannot be used.
    #[error("the folder of templates {}: {reason}", ShownPath(path))]
    Templates {
        /// The folder, or what is wrong in it.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A secret of a document cannot be opened.
    #[error("{document}: the secret at {pointer} cannot be opened: {reason}")]
    Secret {
        /// `COLLECTION/ID`.
        document: String,
        /// JSON pointer (RFC 6901) to the secret.
        pointer: String,
        /// Why, without a part of the secret.
        reason: String,
    },
    /// A rendered file is too long.
    #[error("{file} has more than {limit} bytes (--max-file-bytes)")]
    TooLong {
        /// The path of the file in its generation.
        file: String,
        /// The limit.
        limit: u64,
    },
    /// There are too many files.
    #[error("there are more than {0} files (--max-files)")]
    TooMany(usize),
    /// Two documents or templates have one file.
    #[error(
        "{0}: two documents or templates have this file; on this file system case does not count"
    )]
    SameFile(String),
    /// With an owner of the files, the folder must be out of reach of that user.
    #[error(
        "{}: with --owner the folder must belong to the user of this process and be writable by nobody \
         else, because its names could be replaced while files are written: remove it, or name another one",
        .0.display()
    )]
    NotOwn(PathBuf),
    /// With an owner of the files, all folders above must be out of reach of that user.
    #[error(
        "{}: with --owner every folder above that of the files must belong to root or the user of this process \
         and be writable by nobody else, unless it is sticky, because a name in it could be replaced while \
         files are written: change its owner and mode, or name a folder elsewhere",
        ShownPath(.0)
    )]
    NotOwnAbove(PathBuf),
    /// What is left of earlier attempts cannot be removed.
    #[error("{0} folders of earlier attempts cannot be removed: remove them by hand ({1})")]
    Left(usize, Box<FilesError>),
    /// No number is left for the next generation.
    #[error("{}: a folder in it has the highest number: remove it", .0.display())]
    NoNumber(PathBuf),
    /// The check refused the generation, or could not run.
    #[error("the check `{command}` {failure}")]
    Check {
        /// The command.
        command: String,
        /// What happened, with its output.
        failure: CommandFailure,
    },
    /// Nothing was proven in time.
    #[error("the configuration was not loaded and current within {waited:?}: {state}")]
    NotCurrent {
        /// How long it was waited for.
        waited: Duration,
        /// The state of the replica, with its last error.
        state: String,
    },
    /// The application could not be notified. The link has been swapped.
    #[error("the files are swapped, and the application was not notified: {0}")]
    Reload(String),
}

/// How a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandFailure {
    /// It cannot be started.
    #[error("cannot be started: {0}")]
    Start(io::Error),
    /// It took too long and was killed.
    #[error("did not end within {0:?} and was killed{1}")]
    Late(Duration, Output),
    /// It ended with a failure.
    #[error("failed ({0}){1}")]
    Status(std::process::ExitStatus, Output),
}

/// The output of a command, as a part of a message.
#[derive(Debug, Default)]
pub struct Output(pub(crate) String);

impl CommandFailure {
    /// The same without the output: files that the command reads have secrets.
    pub(crate) fn without_output(self) -> Self {
        let withheld =
            || Output("its output is not shown, because files may have secrets".to_owned());
        match self {
            Self::Start(error) => Self::Start(error),
            Self::Late(after, _output) => Self::Late(after, withheld()),
            Self::Status(status, _output) => Self::Status(status, withheld()),
        }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.trim() {
            "" => f.write_str(", without output"),
            text => write!(f, ": {text}"),
        }
    }
}

impl FilesError {
    /// Whether another attempt with the same documents may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Io { .. }
            | Self::Locked(_)
            | Self::NoLink(_)
            | Self::NotOwn(_)
            | Self::NotOwnAbove(_)
            | Self::Left(..)
            | Self::NoNumber(_)
            | Self::Check { .. } => true,
            Self::Replaced(_)
            | Self::Template { .. }
            | Self::Templates { .. }
            | Self::Secret { .. }
            | Self::TooLong { .. }
            | Self::TooMany(_)
            | Self::SameFile(_)
            | Self::NotCurrent { .. }
            | Self::Reload(_) => false,
        }
    }

    /// A word for programs.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. }
            | Self::Locked(_)
            | Self::Replaced(_)
            | Self::NoLink(_)
            | Self::NotOwn(_)
            | Self::NotOwnAbove(_)
            | Self::Left(..)
            | Self::NoNumber(_) => "disk",
            Self::Template { .. } | Self::Templates { .. } => "template",
            Self::Secret { .. } => "secret",
            Self::TooLong { .. } | Self::TooMany(_) => "limit",
            Self::SameFile(_) => "name",
            Self::Check { .. } => "check",
            Self::NotCurrent { .. } => "not-current",
            Self::Reload(_) => "reload",
        }
    }
}

/// An error of the file system, with the path.
pub(crate) fn at_path(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> FilesError {
    |reason| FilesError::Io {
        path: path.into(),
        reason,
    }
}

fn at(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}

fn reading(document: Option<&str>) -> String {
    document.map_or_else(String::new, |document| {
        format!(" (it had read {document} last)")
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn the_reason_of_the_file_system_is_printed_once() {
        let error = at_path("/a")(io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(error.to_string(), "/a: permission denied");
        assert!(error.source().is_none());
    }
}
