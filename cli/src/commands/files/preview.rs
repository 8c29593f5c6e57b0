//! What `confcast files` would change, as differences of lines. Secrets are not shown.

use std::time::Duration;

use files::{FileChange, FilesConfig, preview};
use replica::{Replica, SecretKeys};
use similar::TextDiff;

use crate::output;

/// Longest file whose lines are compared, in bytes.
const MAX_COMPARED: usize = 1 << 20;

pub(super) async fn show(
    config: &FilesConfig,
    replica: &Replica,
    keys: Option<SecretKeys>,
    limit: Duration,
) -> anyhow::Result<()> {
    let changes = preview(config, replica, keys, limit).await?;
    if changes.is_empty() {
        output::note("confcast: nothing would change");
    }
    for change in changes {
        show_file(&change)?;
    }
    Ok(())
}

fn show_file(change: &FileChange) -> anyhow::Result<()> {
    let FileChange {
        path,
        before,
        after,
        has_secrets,
    } = change;
    let Some(after) = after else {
        return Ok(output::result(format_args!("{path}: removed"))?);
    };
    let kind = match before {
        Some(_) => "changed",
        None => "new",
    };
    if *has_secrets {
        return Ok(output::result(format_args!(
            "{path}: {kind}, with secrets, which are not shown"
        ))?);
    }
    let before = before.as_deref().unwrap_or_default();
    let texts = (str::from_utf8(before), str::from_utf8(after));
    let (Ok(before), Ok(after)) = texts else {
        return Ok(output::result(format_args!("{path}: {kind}, no text"))?);
    };
    if before.len().max(after.len()) > MAX_COMPARED {
        return Ok(output::result(format_args!(
            "{path}: {kind}, {} bytes",
            after.len()
        ))?);
    }
    output::result(format_args!("{path}: {kind}"))?;
    let difference = TextDiff::from_lines(before, after);
    let text = difference.unified_diff().context_radius(3).to_string();
    Ok(output::result_lines(text.trim_end_matches('\n'))?)
}
