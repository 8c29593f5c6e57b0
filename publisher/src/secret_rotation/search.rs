//! The search for documents whose secrets are not wrapped by the active key. Nothing is opened or
//! written here.

use std::collections::BTreeSet;

use contract::{CollectionName, canonical, secrets::SEALED_MEMBER};
use secrets::{Keyring, document::NotActive};

use crate::{
    decide::DocumentKey,
    store::{Store, integrity::is_damage},
};

/// Documents whose secrets are not wrapped by the active key.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// All of them.
    pub(super) number: usize,
    /// Those with a secret that is wrapped by a key that this publisher does not have.
    pub(super) unknown: usize,
    /// Those that can be wrapped again, the first ones after a given one, ordered by collection and id.
    pub(super) keys: Vec<DocumentKey>,
    /// Whether there are more of these.
    pub(super) has_more: bool,
    /// A collection that cannot be read completely, and why.
    pub(super) damaged: Option<(CollectionName, anyhow::Error)>,
}

impl Found {
    /// Searches all documents of the store. Those up to `after` are counted only. At most `limit` keys
    /// are held.
    ///
    /// # Errors
    /// When the store cannot be read. A damaged document is no error: the others are found.
    pub(super) async fn search(
        store: &Store,
        keys: &Keyring,
        after: Option<&DocumentKey>,
        limit: usize,
    ) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for collection in store.policy().collections.all().iter() {
            match found.search_in(store, collection, keys, after, limit).await {
                Err(error) if is_damage(&error) => {
                    found.damaged.get_or_insert((collection.clone(), error));
                }
                searched => searched?,
            }
        }
        Ok(found)
    }

    async fn search_in(
        &mut self,
        store: &Store,
        collection: &CollectionName,
        keys: &Keyring,
        after: Option<&DocumentKey>,
        limit: usize,
    ) -> anyhow::Result<()> {
        let only = BTreeSet::from([collection.clone()]);
        let mut documents = store.documents(&only).await?;
        while let Some(chunk) = documents.next().await? {
            for document in chunk.documents {
                let json = document.config_data();
                // Most documents have no secret, and are not parsed.
                if memchr::memmem::find(json, SEALED_MEMBER.as_bytes()).is_none() {
                    continue;
                }
                if let Ok(value) = canonical::value(json) {
                    let key = (collection.clone(), document.id().clone());
                    self.note(key, NotActive::of(&value, keys), after, limit);
                }
            }
        }
        Ok(())
    }

    fn note(
        &mut self,
        key: DocumentKey,
        secrets: NotActive,
        after: Option<&DocumentKey>,
        limit: usize,
    ) {
        if secrets.is_empty() {
            return;
        }
        self.number += 1;
        self.unknown += usize::from(secrets.unknown > 0);
        if secrets.known == 0 || after.is_some_and(|after| key <= *after) {
            return;
        }
        if self.keys.len() < limit {
            self.keys.push(key);
        } else {
            self.has_more = true;
        }
    }
}
