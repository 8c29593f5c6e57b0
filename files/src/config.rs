//! What is rendered, where to, and who is asked and notified. Nothing here does more than compare paths.

use std::{
    path::{self, Path, PathBuf},
    time::Duration,
};

use crate::{Access, CommandLine, Content, FilesError, Limits, Pace, Reload};

/// What is rendered, where to, and who is asked and notified.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// The folder with the link. It is made when it is not there.
    pub folder: PathBuf,
    /// What the files are made of.
    pub content: Content,
    /// Bounds of a generation.
    pub limits: Limits,
    /// Who may read the files.
    pub access: Access,
    /// How many generations are kept besides the current one. An application may still read the last one.
    pub keep: usize,
    /// How long changes are gathered.
    pub pace: Pace,
    /// The command that accepts or refuses a generation.
    pub check: Option<CommandLine>,
    /// How the application is notified.
    pub reload: Option<Reload>,
    /// How long a command may run.
    pub command_limit: Duration,
    /// Where the status is written.
    pub status_file: Option<PathBuf>,
}

impl FilesConfig {
    /// # Errors
    /// When templates and files are in each other: the files of one generation would be templates of the
    /// next one.
    pub(crate) fn check_folders(&self) -> Result<(), FilesError> {
        let Content::Templates(templates) = &self.content else {
            return Ok(());
        };
        let (from, to) = (real(templates), real(&self.folder));
        if from.starts_with(&to) || to.starts_with(&from) {
            return Err(FilesError::Templates {
                path: templates.clone(),
                reason: format!("it and {} must not be in each other", to.display()),
            });
        }
        Ok(())
    }
}

/// The path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = path::absolute(path).unwrap_or_else(|_error| path.to_path_buf());
    let found = path.ancestors().find_map(|existing| {
        let real = existing.canonicalize().ok()?;
        Some(real.join(path.strip_prefix(existing).ok()?))
    });
    found.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_and_files_are_never_in_each_other() {
        let home = tempfile::tempdir().expect("a folder");
        let templates = home.path().join("templates");
        std::fs::create_dir(&templates).expect("made");
        std::os::unix::fs::symlink(&templates, home.path().join("link")).expect("made");
        let is_refused = |to: &str| {
            let config = FilesConfig {
                folder: home.path().join(to),
                content: Content::Templates(templates.clone()),
                limits: Limits {
                    file_bytes: 1,
                    files: 1,
                },
                access: Access {
                    mode: 0o644,
                    secret_mode: 0o600,
                    owner: None,
                },
                keep: 1,
                pace: Pace {
                    min: Duration::ZERO,
                    max: Duration::ZERO,
                },
                check: None,
                reload: None,
                command_limit: Duration::ZERO,
                status_file: None,
            };
            config.check_folders().is_err()
        };
        assert!(is_refused("templates") && is_refused("templates/new") && is_refused("link/new"));
        assert!(is_refused("") && !is_refused("out/new") && !is_refused("templates-2"));
    }
}
