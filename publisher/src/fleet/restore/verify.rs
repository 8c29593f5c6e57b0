//! Whether a store is whole: documents, heads and change log agree. During a restore they do not.
//! It only reads.

use anyhow::ensure;
use contract::{Epoch, Head};

use crate::store::Store;

/// Compares the documents of every collection with its head, from a single snapshot of the store,
/// and the end of every log with its head.
///
/// # Errors
/// What does not agree, or that the store cannot be read, or is in another epoch.
pub(super) async fn verify(store: &Store, epoch: Epoch) -> anyhow::Result<()> {
    let mut documents = store.documents(&store.policy().collections.all()).await?;
    ensure!(
        documents.epoch == epoch,
        "another epoch was declared meanwhile"
    );
    // A cursor that ends without an error has compared all documents with their heads.
    while documents.next().await?.is_some() {}
    for head in &documents.heads {
        verify_log(store, head).await?;
    }
    Ok(())
}

/// The log ends where the head is. If the last record were missing, feeds would have a gap; if
/// there were one too many, every later write would fail.
async fn verify_log(store: &Store, head: &Head) -> anyhow::Result<()> {
    let name = &head.collection;
    // A log that was trimmed up to the head has no last record.
    if head.revision >= head.oldest {
        let records = store.changes(name, head.revision - 1, 1, 1).await?;
        let agrees = records
            .first()
            .is_some_and(|last| (last.revision, last.digest) == (head.revision, head.digest));
        ensure!(agrees, log_mismatch(head));
    }
    let beyond = store.changes(name, head.revision, 1, 1).await?;
    if let Some(next) = beyond.first() {
        // It is right when it was written after the heads were read.
        let now = store.heads(&[name.clone()].into()).await?;
        let written_since = now.first().is_some_and(|now| now.revision >= next.revision);
        ensure!(written_since, log_mismatch(head));
    }
    Ok(())
}

fn log_mismatch(head: &Head) -> String {
    format!(
        "the log of {} does not end at revision {}: is a restore under way?",
        head.collection, head.revision
    )
}
