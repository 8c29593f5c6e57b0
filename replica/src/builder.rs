//! How a replica with typed collections and handlers is built, and the errors of that.
//!
//! Every error is found before anything runs, and its message says how to fix it. Nothing here does
//! I/O.

use std::{any::TypeId, collections::BTreeSet, sync::Arc, time::Duration};

use client::CredentialError;
use contract::{CollectionName, FormatError};
use secrets::SecretKeys;
use serde::de::DeserializeOwned;

use crate::{
    Config, FirstLoad, HandlerError, Replica, Update,
    typed::{Handler, Handlers, Opening, SecretStore, StoreCache, Typed, TypedDecoder},
};

/// Default of [`Builder::patience`].
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest name of a handler, in bytes: every check-in carries it.
const MAX_NAME: usize = 128;

/// Why a replica cannot be built, or why it has no such typed collection.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An invalid name of a collection.
    #[error(transparent)]
    Name(#[from] FormatError),
    /// No publisher, or a URL that cannot be one of a publisher.
    #[error("{0:?} is no URL of a publisher: write something like \"http://127.0.0.1:8080\"")]
    Publisher(String),
    /// A collection that is not followed.
    #[error("{name} is not followed: add it to Config::collections, which has {followed}")]
    NotFollowed {
        /// Its name.
        name: CollectionName,
        /// The collections that are followed.
        followed: String,
    },
    /// A collection that the builder did not give this type.
    #[error(
        "{collection} is not read as {type_name}: add .collection::<{type_name}>(\"{collection}\")? to the builder"
    )]
    NotTyped {
        /// Its name.
        collection: String,
        /// The type.
        type_name: &'static str,
    },
    /// Two handlers of the same name.
    #[error("there is a handler {0} already: give this one a prefix of its own, as in Audit{0}")]
    Duplicate(String),
    /// A handler whose name does not end with a followed collection.
    #[error(
        "the name of a handler ends with the collection that it is notified of, and {name:?} does not: followed are {followed}"
    )]
    NoCollection {
        /// Its name.
        name: String,
        /// The collections that are followed.
        followed: String,
    },
    /// A handler whose name is too long.
    #[error("the name of a handler has at most {MAX_NAME} bytes, and {0:?} has more")]
    LongName(String),
    /// A setting of the environment has a wrong form.
    #[error("{name} is wrong: expected {expected}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// The HTTP client cannot be built, or the credentials must not be sent to a publisher.
    #[error(transparent)]
    Client(#[from] CredentialError),
}

/// Builds a replica.
#[derive(Debug)]
pub struct Builder {
    /// The configuration of the replica.
    config: Config,
    /// One per collection and type, in the order in which they were named.
    decoders: Vec<TypedDecoder>,
    /// In the order of registration.
    handlers: Vec<Handler>,
    /// See [`Builder::patience`].
    patience: Duration,
    /// See [`Builder::first_load`].
    first_load: FirstLoad,
    /// See [`Builder::secret_keys`].
    secret_keys: Option<SecretKeys>,
    /// See [`Builder::secret_store`].
    secret_store: Option<SecretStore>,
}

impl Builder {
    /// A builder of a replica with this configuration, without types and handlers.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            decoders: Vec::new(),
            handlers: Vec::new(),
            patience: PATIENCE,
            first_load: FirstLoad::default(),
            secret_keys: None,
            secret_store: None,
        }
    }

    /// Reads the documents of a followed collection as values of `T`, for [`Replica::collection`].
    /// One collection may be read as several types.
    ///
    /// # Errors
    /// When the collection is not followed.
    pub fn collection<T: DeserializeOwned + Send + Sync + 'static>(
        mut self,
        name: &str,
    ) -> Result<Self, BuildError> {
        let name: CollectionName = name.parse()?;
        if !self.config.collections.contains(&name) {
            return Err(BuildError::NotFollowed {
                name,
                followed: followed(&self.config.collections),
            });
        }
        self.decoder::<T>(name);
        Ok(self)
    }

    /// Notifies `handle` of the whole collection, then of each change. The name ends with the
    /// collection; the part before it is free, so that a collection can have several handlers:
    /// `ChannelConfiguration`, `AuditChannelConfiguration`.
    ///
    /// It is called on the task that runs [`Replica::run`], concurrently with everything else: it
    /// must await and not block; work that blocks or computes for long belongs to `spawn_blocking`.
    ///
    /// After an error or a panic the next notification of this handler is an [`Update::Resync`], 0.1
    /// to 30 s later; other handlers are not affected. Handlers get their first resync in the order
    /// in which they are registered here.
    ///
    /// # Errors
    /// When the name is taken or too long, or does not end with a followed collection.
    pub fn handler<T, F, R>(mut self, name: &str, handle: F) -> Result<Self, BuildError>
    where
        T: DeserializeOwned + Send + Sync + 'static,
        F: Fn(Update<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        // Before anything else: the other messages show the name.
        if name.len() > MAX_NAME {
            return Err(BuildError::LongName(name.to_owned()));
        }
        // The name tells handlers apart in status, metrics and logs.
        if self.handlers.iter().any(|handler| handler.name == name) {
            return Err(BuildError::Duplicate(name.to_owned()));
        }
        // The longest that fits: Configuration may be followed together with ChannelConfiguration.
        let Some(collection) = self
            .config
            .collections
            .iter()
            .filter(|collection| name.ends_with(collection.as_str()))
            .max_by_key(|collection| collection.as_str().len())
            .cloned()
        else {
            return Err(BuildError::NoCollection {
                name: name.to_owned(),
                followed: followed(&self.config.collections),
            });
        };
        let decoder = self.decoder::<T>(collection);
        self.handlers
            .push(Handler::new(name.to_owned(), decoder, handle));
        Ok(self)
    }

    /// How long later handlers wait for a handler that hangs in its resync; 30 s by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What the first load must bring before [`Replica::ready`] succeeds: by default a value of every
    /// document that is read as a type.
    pub fn first_load(mut self, first_load: FirstLoad) -> Self {
        self.first_load = first_load;
        self
    }

    /// Opens sealed values (`x-secret`) for typed collections, in memory only. Without keys a typed
    /// value gets the sealed form. The environment names keys: [`SecretKeys::from_environment`].
    pub fn secret_keys(mut self, keys: SecretKeys) -> Self {
        self.secret_keys = Some(keys);
        self
    }

    /// Resolves references to secret stores (`x-secret-ref`) for typed collections, in memory only.
    /// Without it a typed value gets the reference.
    pub fn secret_store(mut self, store: SecretStore) -> Self {
        self.secret_store = Some(store);
        self
    }

    /// The replica. It does nothing until [`Replica::run`].
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn build(self) -> Result<Replica, BuildError> {
        let handlers = Handlers::new(self.handlers, self.patience);
        let store = self.secret_store.map(StoreCache::new).transpose();
        let store = store.map_err(CredentialError::from)?;
        let opening = Opening::new(self.secret_keys, store);
        Ok(Replica::with_types(
            self.config,
            Typed::new(self.decoders, handlers, self.first_load, Arc::new(opening)),
        )?)
    }

    /// The index of the decoder of a collection and a type; a new one when there is none.
    fn decoder<T: DeserializeOwned + Send + Sync + 'static>(
        &mut self,
        collection: CollectionName,
    ) -> usize {
        let known = self.decoders.iter().position(|decoder| {
            decoder.collection == collection && decoder.type_id == TypeId::of::<T>()
        });
        // Handlers and readers of the same type share a decoder, so a value is decoded once.
        known.unwrap_or_else(|| {
            self.decoders.push(TypedDecoder::of::<T>(collection));
            self.decoders.len() - 1
        })
    }
}

/// The names of the collections, for messages.
fn followed(collections: &BTreeSet<CollectionName>) -> String {
    let names: Vec<&str> = collections.iter().map(CollectionName::as_str).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests;
