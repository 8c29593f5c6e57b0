//! The key with which each publisher of a store seals secrets: ids of keys, and never a key.
//!
//! It is how publishers find out that they do not agree. Nothing here decides what follows.

use std::{collections::BTreeSet, time::Duration};

use crate::store::Store;

/// For how long a publisher counts after it told its key.
pub(crate) const TOLD_FOR: Duration = Duration::from_secs(120);

impl Store {
    /// Tells the other publishers of the store which key `publisher` seals secrets with, and gives the
    /// keys of those that told another one within [`TOLD_FOR`], by the clock of the store. They are
    /// none where only this process can open the store. `publisher` names this process.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) async fn tell_secret_key(
        &self,
        publisher: u64,
        key: &str,
    ) -> anyhow::Result<BTreeSet<String>> {
        match self {
            Self::Embedded(_) => Ok(BTreeSet::new()),
            Self::Mongo(store) => store.opened()?.tell_secret_key(publisher, key).await,
        }
    }
}
