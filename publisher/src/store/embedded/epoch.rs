//! Declaring an epoch in the embedded store.

use anyhow::Context;
use contract::Epoch;

use crate::store::embedded::{
    Embedded,
    tables::{META, epoch},
};

impl Embedded {
    /// redb allows one write transaction at a time, so no group can read the old epoch and commit
    /// after this.
    pub(in crate::store) async fn declare_epoch(
        &self,
        from: Epoch,
        to: Epoch,
    ) -> anyhow::Result<bool> {
        let store = self.clone();
        self.call(move |database| {
            let transaction = database.begin_write()?;
            let mut meta = transaction.open_table(META)?;
            // Another epoch was declared since the caller read it. Dropping the transaction aborts
            // it.
            if epoch(&meta)? != from {
                return Ok(false);
            }
            meta.insert("lineage", u64::from(to.lineage))?;
            meta.insert("counter", to.counter)?;
            // redb commits only when no table is open.
            drop(meta);
            // As for a group: after an error only opening the file again shows the outcome.
            transaction
                .commit()
                .context("committing the new epoch")
                .inspect_err(|error| store.record_failure(error))?;
            Ok(true)
        })
        .await
    }
}
