//! How the application is notified of new files: a signal to the process of a file, or a command.

use std::{fs, io::Read as _, path::PathBuf, time::Duration};

use contract::text::paths::ShownPath;
use rustix::process::{Pid, Signal, kill_process};

use crate::{CommandLine, FilesError};

/// Longest file with the number of a process, in bytes.
const MAX_PID_FILE: u64 = 64;

/// How the application is notified.
#[derive(Debug, Clone)]
pub enum Reload {
    /// A signal to the process whose number is in a file.
    Signal(SignalName, PathBuf),
    /// A command.
    Command(CommandLine),
}

/// The signals by which applications read their files again, or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is called as in POSIX")]
pub enum SignalName {
    Hup,
    Usr1,
    Usr2,
    Term,
    Int,
    Quit,
}

impl SignalName {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Hup,
        Self::Usr1,
        Self::Usr2,
        Self::Term,
        Self::Int,
        Self::Quit,
    ];

    /// Its name, without `SIG`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::Hup => Signal::HUP,
            Self::Usr1 => Signal::USR1,
            Self::Usr2 => Signal::USR2,
            Self::Term => Signal::TERM,
            Self::Int => Signal::INT,
            Self::Quit => Signal::QUIT,
        }
    }
}

impl Reload {
    /// Notifies the application; `link` stands for `{dir}`. What a command prints is shown unless files
    /// have secrets.
    ///
    /// # Errors
    /// When the process does not run, may not be signalled, or the command fails.
    pub(crate) async fn notify(
        &self,
        link: &std::path::Path,
        limit: Duration,
        has_secrets: bool,
    ) -> Result<(), FilesError> {
        match self {
            Self::Signal(name, file) => signal(*name, file).map_err(FilesError::Reload),
            Self::Command(command) => command.run(link, limit).await.map_err(|failure| {
                let failure = match has_secrets {
                    true => failure.without_output(),
                    false => failure,
                };
                FilesError::Reload(format!("the command `{command}` {failure}"))
            }),
        }
    }
}

fn signal(name: SignalName, file: &PathBuf) -> Result<(), String> {
    let shown = ShownPath(file);
    let mut text = String::new();
    // A pipe would block; a file of another kind is no file of a number.
    let read = match fs::metadata(file) {
        Ok(metadata) if !metadata.is_file() => return Err(format!("{shown} is no file")),
        Ok(_) => {
            fs::File::open(file).and_then(|file| file.take(MAX_PID_FILE).read_to_string(&mut text))
        }
        Err(error) => Err(error),
    };
    read.map_err(|error| {
        format!("{shown}: {error}: the application does not run, or has another --pid-file")
    })?;
    let id = text.trim();
    if id.is_empty() {
        // nginx makes it when it checks a configuration.
        return Err(format!("{shown} is empty: the application does not run"));
    }
    // 0 and negative numbers are groups of processes, and -1 is all of them.
    let id = id
        .parse::<i32>()
        .ok()
        .filter(|id| *id > 0)
        .and_then(Pid::from_raw);
    let id = id.ok_or_else(|| format!("{shown} has no number of a process"))?;
    kill_process(id, name.signal()).map_err(|error| {
        format!(
            "SIG{} to the process {} of {shown}: {error}",
            name.name(),
            id.as_raw_nonzero()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_positive_number_is_signalled() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        assert!(
            signal(SignalName::Usr1, &file)
                .expect_err("missing")
                .contains("does not run")
        );
        for wrong in ["0", "-1", "x", "1 2", "99999999999"] {
            fs::write(&file, wrong).expect("written");
            let error = signal(SignalName::Term, &file).expect_err(wrong);
            assert!(error.contains("no number of a process"), "{error}");
        }
        assert!(signal(SignalName::Usr1, &folder.path().to_path_buf()).is_err());
    }
}
