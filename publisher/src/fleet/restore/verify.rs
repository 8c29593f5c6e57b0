//! Whether a store is whole: documents, heads and change log agree. During a restore they do not.
//! It only reads.

use std::collections::BTreeMap;

use anyhow::ensure;
use contract::{CollectionName, Digest, Epoch, Head};

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
    let mut sums = BTreeMap::<CollectionName, (u64, Digest)>::new();
    while let Some(piece) = documents.next().await? {
        let (count, digest) = sums.entry(piece.collection).or_default();
        for document in &piece.documents {
            *count += 1;
            *digest = digest.with(document.id(), document.revision(), document.crc());
        }
    }
    for head in &documents.heads {
        let (count, digest) = sums.get(&head.collection).copied().unwrap_or_default();
        // The digest alone would do, but a count tells the operator how much is missing.
        ensure!(
            (count, digest) == (head.count, head.digest),
            "the documents of {} do not add up to its head ({count} instead of {}): is a restore \
             under way?",
            head.collection,
            head.count
        );
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
