//! Whether a store is whole: documents, heads and change log agree. During a restore they do not.
//! It only reads.

use anyhow::ensure;
use contract::Epoch;

use crate::store::{
    Store,
    log_end::{self, LogEnd},
};

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
        ensure!(
            log_end::of(store, head).await? == LogEnd::AtHead,
            "the log of {} does not end at revision {}: is a restore under way?",
            head.collection,
            head.revision
        );
    }
    Ok(())
}
