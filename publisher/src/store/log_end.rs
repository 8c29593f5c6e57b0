//! Whether a change log ends where its head is. While a dump is put back it does not. It only reads.

use contract::Head;

use super::Store;

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEnd {
    /// At the head, or at a newer one that was written meanwhile.
    AtHead,
    /// Elsewhere: the last record is absent, is of other content, or is not the last one. Feeds would have
    /// a gap, or every later write would fail.
    Elsewhere,
}

/// Compares the end of a log with its head, which was read before.
///
/// # Errors
/// When the store cannot be read.
pub async fn of(store: &Store, head: &Head) -> anyhow::Result<LogEnd> {
    let name = &head.collection;
    // A log that was trimmed up to the head has no last record.
    if head.revision >= head.oldest {
        let records = store.changes(name, head.revision - 1, 1, 1).await?;
        let agrees = records
            .first()
            .is_some_and(|last| (last.revision, last.digest) == (head.revision, head.digest));
        if !agrees {
            return Ok(LogEnd::Elsewhere);
        }
    }
    let beyond = store.changes(name, head.revision, 1, 1).await?;
    let Some(next) = beyond.first() else {
        return Ok(LogEnd::AtHead);
    };
    // It is right when it was written after the head was read.
    let now = store.heads(&[name.clone()].into()).await?;
    let written_since = now.first().is_some_and(|now| now.revision >= next.revision);
    Ok(match written_since {
        true => LogEnd::AtHead,
        false => LogEnd::Elsewhere,
    })
}
