//! Declaring an epoch in the embedded store.

use anyhow::Context;
use contract::{CollectionName, Epoch};

use crate::store::{
    StoreIdentity,
    embedded::{
        Embedded,
        connections::{Durability, End},
        tables,
    },
};

impl Embedded {
    pub(in crate::store) async fn identity(&self) -> anyhow::Result<StoreIdentity> {
        self.read(|_store, transaction| tables::identity(transaction))
            .await
    }

    /// There is one writing connection, so no group can read the old epoch and commit after this.
    pub(in crate::store) async fn declare_epoch(
        &self,
        from: Epoch,
        to: Epoch,
    ) -> anyhow::Result<bool> {
        let declared = self.write(Durability::Synced, move |store, transaction| {
            let before = tables::identity(transaction)?;
            // Another epoch was declared since the caller read it.
            if before.epoch != from {
                return Ok(End::RollBack(false));
            }
            let names: Vec<CollectionName> = transaction
                .prepare_cached("SELECT collection FROM heads")?
                .query_map([], |row| row.get::<_, String>(0))?
                .map(|name| Ok(name?.parse()?))
                .collect::<anyhow::Result<_>>()?;
            for name in names {
                let head = store.head(transaction, &name, &before)?;
                tables::put_head(transaction, &before.secret.prove_head(head, to))?;
            }
            tables::put_identity(
                transaction,
                &StoreIdentity {
                    epoch: to,
                    secret: before.secret,
                    replaces: before.replaces.after(from, to),
                },
            )?;
            Ok(End::Commit(true))
        });
        declared.await.context("declaring the new epoch")
    }
}
