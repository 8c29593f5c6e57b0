//! The epoch of the store: how a new one is declared after a restore.
//!
//! Whether an epoch has to be declared is decided by `fleet::restore`, not here.

use contract::Epoch;

use crate::store::{Store, StoreIdentity};

impl Store {
    /// Epoch and secret of the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn identity(&self) -> anyhow::Result<StoreIdentity> {
        match self {
            Self::Embedded(store) => store.identity().await,
            Self::Mongo(store) => store.opened()?.identity().await,
        }
    }

    /// Makes a small write that only the true primary can confirm. A read that begins after it sees
    /// everything that was committed before it.
    ///
    /// # Errors
    /// When the write was not confirmed.
    pub async fn confirm_primary(&self) -> anyhow::Result<()> {
        match self {
            // Only this process has the file open, so no other writer exists.
            Self::Embedded(_) => Ok(()),
            Self::Mongo(store) => store.opened()?.confirm_primary().await,
        }
    }

    /// Replaces the epoch `from` with the epoch `to`, durably, and proves every head in it: the new
    /// epoch is then evidence too, should its declaration be lost. `false` if the store was not in
    /// `from`. No change that is committed later carries `from`.
    ///
    /// # Errors
    /// When it is not certain that the epoch was declared.
    pub async fn declare_epoch(&self, from: Epoch, to: Epoch) -> anyhow::Result<bool> {
        match self {
            Self::Embedded(store) => store.declare_epoch(from, to).await,
            Self::Mongo(store) => store.opened()?.declare_epoch(from, to).await,
        }
    }
}
