//! Declaring an epoch in the embedded store.

use anyhow::Context;
use contract::{Epoch, Head};
use redb::{ReadableDatabase, ReadableTable};

use crate::store::{
    StoreIdentity,
    embedded::{
        Embedded,
        tables::{HEADS, META, SECRET, identity, identity_in},
    },
};

impl Embedded {
    pub(in crate::store) async fn identity(&self) -> anyhow::Result<StoreIdentity> {
        self.call(|database| {
            let transaction = database.begin_read()?;
            identity(
                &transaction.open_table(META)?,
                &transaction.open_table(SECRET)?,
            )
        })
        .await
    }

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
            let StoreIdentity { epoch, secret } = identity_in(&transaction)?;
            // Another epoch was declared since the caller read it. Dropping the transaction aborts
            // it.
            if epoch != from {
                return Ok(false);
            }
            let mut meta = transaction.open_table(META)?;
            meta.insert("lineage", u64::from(to.lineage))?;
            meta.insert("counter", to.counter)?;
            // redb commits only when no table is open.
            drop(meta);
            let mut heads = transaction.open_table(HEADS)?;
            let stored = heads
                .iter()?
                .map(|row| Ok(serde_json::from_slice::<Head>(row?.1.value())?))
                .collect::<anyhow::Result<Vec<_>>>()?;
            for head in stored {
                let head = secret.prove_head(head, to);
                heads.insert(
                    head.collection.as_str(),
                    serde_json::to_vec(&head)?.as_slice(),
                )?;
            }
            drop(heads);
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
