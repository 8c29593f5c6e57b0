//! What a projection would change. Nothing is written, locked or run.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use replica::{Replica, SecretKeys};

use crate::{
    FilesConfig, FilesError, RenderedFile, attempt::blocking, content::Source, folder,
    generation::files_below, proven::until_current,
};

/// A file that would change.
#[derive(Debug)]
pub struct FileChange {
    /// Its path in the generation.
    pub path: String,
    /// What it contains now; `None` when it is new.
    pub before: Option<Vec<u8>>,
    /// What it would contain; `None` when it would be removed.
    pub after: Option<Vec<u8>>,
    /// Whether secrets in plain text may be in it.
    pub has_secrets: bool,
}

/// What a projection would change in its folder. Nothing is written, and no command runs.
///
/// # Errors
/// When nothing is proven in time, or something cannot be rendered.
pub async fn preview(
    config: &FilesConfig,
    replica: &Replica,
    keys: Option<SecretKeys>,
    limit: Duration,
) -> Result<Vec<FileChange>, FilesError> {
    config.check_folders()?;
    let view = until_current(replica, limit).await?;
    let config = config.clone();
    blocking(move || {
        let keys = keys.map(|keys| keys.keyring());
        let base = folder::current_of(&config.folder)?;
        let mut left = base
            .as_deref()
            .and_then(|base| files_below(base).ok())
            .unwrap_or_default();
        let mut changes = Vec::new();
        let source = Source::read(&config.content)?;
        source.render(view.root(), keys.as_ref(), &config.limits, &mut |file| {
            left.retain(|path| path != Path::new(&file.path));
            let RenderedFile {
                path,
                content,
                has_secrets,
            } = file;
            let before = base.as_deref().map(|base| base.join(&path));
            // The old text is shown too, and may have what the new one no longer has.
            let had_secrets = before.as_deref().is_some_and(|before| {
                fs::metadata(before).is_ok_and(|found| {
                    found.permissions().mode() & 0o777 == config.access.secret_mode
                })
            });
            let before = before.and_then(|before| fs::read(before).ok());
            if before.as_ref() != Some(&content) {
                changes.push(FileChange {
                    path,
                    before,
                    after: Some(content),
                    has_secrets: has_secrets || had_secrets,
                });
            }
            Ok(())
        })?;
        for path in left {
            changes.push(FileChange {
                path: path.to_string_lossy().into_owned(),
                before: Some(Vec::new()),
                after: None,
                has_secrets: false,
            });
        }
        Ok(changes)
    })
    .await
}
