//! One attempt: it renders a view into a generation, has it checked, and swaps the link. Whatever fails, the
//! current generation stays.

use std::sync::Arc;

use secrets::Keyring;
use state::Root;
use tokio::task::spawn_blocking;

use crate::{FilesConfig, FilesError, content::Source, folder::Folder, generation::Generation};

/// What an attempt did.
pub(crate) enum Attempt {
    /// The current generation has these files already.
    Same { number: Option<u64>, files: usize },
    /// There is a new generation.
    Swapped { number: u64, files: usize },
}

/// Renders, checks and swaps. `last` gets what was rendered.
///
/// # Errors
/// What failed first.
pub(crate) async fn attempt(
    config: &FilesConfig,
    folder: &Arc<Folder>,
    keys: Option<Arc<Keyring>>,
    root: &Root,
    last: &mut Option<Arc<Source>>,
) -> Result<Attempt, FilesError> {
    let content = config.content.clone();
    let source = blocking(move || Source::read(&content)).await.map(Arc::new);
    // Also what cannot be read: another look would else begin another attempt.
    *last = source.as_ref().ok().cloned();
    let source = source?;
    let has_secrets = keys.is_some();
    let (writing, root) = (Arc::clone(folder), root.clone());
    let (limits, has_check) = (config.limits, config.check.is_some());
    let (generation, files) = blocking(move || {
        let mut generation = Generation::begin(&writing)?;
        let files = source.render(&root, keys.as_ref(), &limits, &mut |file| {
            generation.write(&file)
        })?;
        if !generation.is_changed()? {
            return Ok((None, files));
        }
        let copy = has_check.then(|| generation.copy()).transpose()?;
        Ok((Some((generation, copy)), files))
    })
    .await?;
    let Some((generation, copy)) = generation else {
        let number = folder.current()?;
        return Ok(Attempt::Same { number, files });
    };
    if let (Some(check), Some(copy)) = (&config.check, &copy) {
        let checked = check.run(copy.path(), config.command_limit);
        checked.await.map_err(|failure| FilesError::Check {
            command: check.to_string(),
            failure: match has_secrets {
                true => failure.without_output(),
                false => failure,
            },
        })?;
    }
    let collecting = Arc::clone(folder);
    let keep = config.keep;
    let number = generation.number();
    blocking(move || {
        drop(copy);
        generation.publish()?;
        // The files are there: what cannot be removed now is removed after the next swap.
        if let Err(error) = collecting.collect(keep) {
            tracing::warn!("earlier generations were not removed: {error}");
        }
        Ok(())
    })
    .await?;
    Ok(Attempt::Swapped { number, files })
}

/// Runs work that blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
