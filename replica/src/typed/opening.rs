//! Secrets of documents, as typed values get them: sealed values opened with the keys of the service,
//! and references to secret stores replaced by what the store has.
//!
//! It happens in memory, between the document and its decoder. What is held, saved on disk or sent on
//! stays as the publisher sent it. A service without keys decodes the sealed form as it is: it can
//! still read everything else.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use contract::{
    CollectionName, Document,
    secrets::{SEALED_MEMBER, SecretRef, is_within, sealed_values, secret_refs},
};
use secrets::{Plain, SecretKeys};
use serde_json::Value;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::secret_store::StoreCache;

/// Time between two looks at the file of the keys, and at entries that are missing.
const POLL: Duration = Duration::from_secs(3);

/// What secrets are opened with.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// Opens sealed values.
    keys: Option<Arc<SecretKeys>>,
    /// Has the entries of secret stores.
    store: Option<StoreCache>,
    /// What became different since the last projection.
    changed: Mutex<Reopen>,
    /// Notified with every change of that.
    notify: Notify,
}

/// Which documents are decoded again although they did not change.
#[derive(Debug, Default)]
pub(crate) struct Reopen {
    /// Those that are refused, because there are other keys.
    pub(crate) refused: bool,
    /// Those that refer to one of these.
    pub(crate) refs: BTreeSet<SecretRef>,
}

impl Reopen {
    /// Whether there is anything to do.
    pub(crate) fn is_due(&self) -> bool {
        self.refused || !self.refs.is_empty()
    }
}

/// A document as its decoder gets it.
pub(crate) enum Opened {
    /// As it is: it has no secret, or none that this service can open.
    AsIs,
    /// With its secrets in plain text.
    Plain {
        /// Its JSON.
        json: Plain,
        /// Pointers to the secrets.
        secrets: Vec<String>,
    },
}

impl Opened {
    /// The value of the document.
    ///
    /// # Errors
    /// When the document is no JSON.
    pub(crate) fn to_value(&self, document: &Document) -> Result<Value, String> {
        let read = match self {
            Self::AsIs => serde_json::from_slice(document.config_data()),
            Self::Plain { json, .. } => serde_json::from_str(json.expose()),
        };
        read.map_err(|_error| "it is no JSON".to_owned())
    }
}

/// A secret that cannot be opened.
pub(crate) struct Unopened {
    /// JSON pointer (RFC 6901) to it.
    pub(crate) pointer: String,
    /// Why, without anything of the secret.
    pub(crate) reason: String,
}

impl Opening {
    /// Opens with these keys, and resolves at these secret stores.
    pub(crate) fn new(keys: Option<SecretKeys>, store: Option<StoreCache>) -> Self {
        Self {
            keys: keys.map(Arc::new),
            store,
            ..Self::default()
        }
    }

    /// Opens a document.
    ///
    /// # Errors
    /// The first secret that should be opened and cannot be.
    pub(crate) fn open(
        &self,
        collection: &CollectionName,
        document: &Document,
    ) -> Result<Opened, Unopened> {
        if self.keys.is_none() && self.store.is_none() {
            return Ok(Opened::AsIs);
        }
        let Some(mut value) = with_secrets(document) else {
            return Ok(Opened::AsIs);
        };
        let mut secrets = Vec::new();
        if let Some(keys) = &self.keys {
            let (id, revision) = (document.id(), document.revision());
            let keys = keys.keyring();
            let opened = secrets::document::open(&mut value, collection, id, Some(revision), &keys);
            secrets = opened.map_err(|unopened| Unopened {
                pointer: unopened.pointer,
                reason: format!("the secret cannot be opened: {}", unopened.reason),
            })?;
        }
        if let Some(store) = &self.store {
            for (pointer, reference) in secret_refs(&value) {
                let entry = store.get(&reference).map_err(|reason| Unopened {
                    pointer: pointer.clone(),
                    reason,
                })?;
                if let (Some(place), Some(entry)) = (value.pointer_mut(&pointer), entry.to_value())
                {
                    *place = entry;
                }
                secrets.push(pointer);
            }
        }
        if secrets.is_empty() {
            return Ok(Opened::AsIs);
        }
        Ok(Opened::Plain {
            json: Plain::of(&value),
            secrets,
        })
    }

    /// Whether references to secret stores are resolved.
    pub(crate) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Whether a document has to be decoded again; `is_refused` says whether it is refused now.
    pub(crate) fn concerns(&self, reopen: &Reopen, document: &Document, is_refused: bool) -> bool {
        if reopen.refused && is_refused {
            return true;
        }
        if reopen.refs.is_empty() {
            return false;
        }
        let refs = refs_of(document);
        refs.iter().any(|found| reopen.refs.contains(found))
    }

    /// What has to be decoded again. It is asked for once.
    pub(crate) fn take_changed(&self) -> Reopen {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *changed)
    }

    /// Resolves when something may have to be decoded again.
    pub(crate) async fn until_changed(&self) {
        self.notify.notified().await;
    }

    /// Asks the secret stores for entries that some documents refer to and that were never asked for.
    /// It waits for a moment only; what is not there then comes later.
    pub(crate) async fn fetch_new<'a>(&self, documents: impl Iterator<Item = &'a Document>) {
        if let Some(store) = &self.store {
            let refs = documents.flat_map(refs_of).collect();
            store.fetch_new(refs).await;
        }
    }

    /// Reads changed keys, and asks the secret stores again from time to time.
    /// `documents` gives the references of all documents.
    pub(crate) async fn run(&self, all_refs: impl Fn() -> BTreeSet<SecretRef>) {
        // A secret store that is slow does not delay a new key.
        tokio::join!(self.follow_keys(), self.follow_store(all_refs));
    }

    async fn follow_keys(&self) {
        let Some(keys) = &self.keys else { return };
        loop {
            sleep(POLL).await;
            if reload(keys).await {
                self.note_changed(Reopen {
                    refused: true,
                    refs: BTreeSet::new(),
                });
            }
        }
    }

    async fn follow_store(&self, all_refs: impl Fn() -> BTreeSet<SecretRef>) {
        let Some(store) = &self.store else { return };
        let mut refreshed = Instant::now();
        loop {
            sleep(POLL).await;
            let all = refreshed.elapsed() >= store.refresh();
            if all {
                refreshed = Instant::now();
            }
            self.note_changed(Reopen {
                refused: false,
                refs: store.refresh_entries(all_refs(), all).await,
            });
        }
    }

    fn note_changed(&self, mut reopen: Reopen) {
        if reopen.is_due() {
            let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
            changed.refused |= reopen.refused;
            changed.refs.append(&mut reopen.refs);
            drop(changed);
            self.notify.notify_one();
        }
    }
}

/// Reads the keys again. Whether they are others.
async fn reload(keys: &Arc<SecretKeys>) -> bool {
    let reading = Arc::clone(keys);
    match tokio::task::spawn_blocking(move || reading.reload()).await {
        Ok(Ok(false)) | Err(_) => false,
        Ok(Ok(true)) => {
            let ids: Vec<_> = keys.keyring().ids().map(ToString::to_string).collect();
            tracing::info!("the secret keys were read again: {}", ids.join(", "));
            true
        }
        Ok(Err(error)) => {
            tracing::debug!("the secret keys cannot be read again, the earlier ones stay: {error}");
            false
        }
    }
}

/// The value of a document, if it has sealed values or references to secret stores.
fn with_secrets(document: &Document) -> Option<Value> {
    let json = document.config_data();
    // Most documents have none, and are not parsed here.
    memchr::memmem::find(json, SEALED_MEMBER.as_bytes())?;
    serde_json::from_slice(json).ok()
}

/// Whether a pointer leads to or into a sealed value of a document.
pub(crate) fn is_sealed(document: &Document, pointer: &str) -> bool {
    let value = with_secrets(document);
    let sealed = value.iter().flat_map(sealed_values);
    let mut sealed = sealed.map(|(sealed, _text)| is_within(pointer, &sealed));
    sealed.any(|is_within| is_within)
}

/// The references of a document to secret stores.
pub(crate) fn refs_of(document: &Document) -> Vec<SecretRef> {
    let refs = with_secrets(document).map(|value| secret_refs(&value));
    let refs = refs.unwrap_or_default().into_iter();
    refs.map(|(_pointer, reference)| reference).collect()
}

#[cfg(test)]
mod tests;
