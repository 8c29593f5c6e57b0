//! What is rendered, where to, and who is asked and notified. Nothing here does more than compare paths.

use std::{path::PathBuf, time::Duration};

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
        let (Ok(from), Ok(to)) = (templates.canonicalize(), self.folder.canonicalize()) else {
            // One that does not exist is an error of its own.
            return Ok(());
        };
        if from.starts_with(&to) || to.starts_with(&from) {
            return Err(FilesError::Templates {
                path: templates.clone(),
                reason: format!("it and {} must not be in each other", to.display()),
            });
        }
        Ok(())
    }
}
