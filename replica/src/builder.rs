//! How a replica with typed collections and handlers is put together, and what is said when that is
//! wrong.
//!
//! Every mistake is found before anything runs, and its message names the mend. Nothing here does
//! I/O.

use std::{any::TypeId, collections::BTreeSet, time::Duration};

use contract::{CollectionName, FormatError};
use serde::de::DeserializeOwned;

use crate::{
    Config, Event, Events, HandlerError, Replica, Url,
    handlers::{Handler, Handlers},
    typed::{Lens, Typed},
};

/// How long other handlers wait for one that hangs, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest time between two check-ins, unless told otherwise.
const CHECK_IN: Duration = Duration::from_secs(10);
/// Longest name of a handler, in bytes: it is told at every check-in.
const MAX_NAME: usize = 128;

/// What is wrong with how a replica is put together, or asked.
#[derive(Debug, thiserror::Error)]
pub enum Mistake {
    /// A name that no collection can have.
    #[error(transparent)]
    Name(#[from] FormatError),
    /// No publisher, or none that can be asked.
    #[error("{0:?} is no URL of a publisher: write something like \"http://127.0.0.1:8080\"")]
    Publisher(String),
    /// A collection that is not followed.
    #[error("{name} is not followed: add it to Config::collections, which has {followed}")]
    NotFollowed {
        /// Its name.
        name: CollectionName,
        /// What is followed.
        followed: String,
    },
    /// A collection that has no such type.
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
    /// A handler whose name does not say what it handles.
    #[error(
        "the name of a handler ends with the collection that it is told of, and {name:?} does not: followed are {followed}"
    )]
    NoCollection {
        /// Its name.
        name: String,
        /// What is followed.
        followed: String,
    },
    /// A handler whose name is too long to be shown.
    #[error("the name of a handler has at most {MAX_NAME} bytes, and {0:?} has more")]
    LongName(String),
    /// No HTTP client can be made.
    #[error("no HTTP client can be made")]
    Client(#[from] reqwest::Error),
}

impl Config {
    /// The common case: changes come by the publisher's live feed, nothing is kept on disk, no
    /// tokens. A publisher has room for 1,024 who follow its feed: where there are more, set
    /// [`Config::events`], or follow a subscriber.
    ///
    /// # Errors
    /// When a URL or a name is none.
    pub fn new(
        instance: impl Into<String>,
        publishers: impl IntoIterator<Item = impl AsRef<str>>,
        collections: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, Mistake> {
        let publisher = |text: &str| {
            let url = Url::parse(text)
                .ok()
                .filter(|url| url.has_host() && url.scheme().starts_with("http"));
            url.ok_or_else(|| Mistake::Publisher(text.to_owned()))
        };
        let publishers = publishers
            .into_iter()
            .map(|text| publisher(text.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let collections = collections
            .into_iter()
            .map(|name| name.as_ref().parse())
            .collect::<Result<_, _>>()?;
        if publishers.is_empty() {
            return Err(Mistake::Publisher(String::new()));
        }
        Ok(Self {
            instance: instance.into(),
            collections,
            publishers,
            base_url: None,
            check_in: CHECK_IN,
            events: Events::Feed,
            snapshot_dir: None,
            sidecar_token: None,
            app_token: None,
        })
    }
}

/// Puts a replica together.
#[derive(Debug)]
pub struct Builder {
    config: Config,
    lenses: Vec<Lens>,
    handlers: Vec<Handler>,
    patience: Duration,
}

impl Builder {
    /// Begins with what a replica must be told.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            lenses: Vec::new(),
            handlers: Vec::new(),
            patience: PATIENCE,
        }
    }

    /// Reads the documents of a followed collection as values of `T`, for [`Replica::collection`].
    /// One collection may be read as several types.
    ///
    /// # Errors
    /// When it is not followed.
    pub fn collection<T: DeserializeOwned + Send + Sync + 'static>(
        mut self,
        name: &str,
    ) -> Result<Self, Mistake> {
        let name: CollectionName = name.parse()?;
        if !self.config.collections.contains(&name) {
            return Err(Mistake::NotFollowed {
                name,
                followed: followed(&self.config.collections),
            });
        }
        self.lens::<T>(name);
        Ok(self)
    }

    /// Tells `handle` everything, then each change. The end of `name` says of which collection;
    /// what stands before it is free, so that a collection can have several handlers:
    /// `ChannelConfiguration`, `AuditChannelConfiguration`.
    ///
    /// It is called on the task that runs [`Replica::run`], beside everything else: what waits must
    /// await, and what blocks or computes for long belongs to `spawn_blocking`.
    ///
    /// An error, or a panic, leads to a new beginning for this handler alone, after a while: a
    /// [`Event::Resync`]. Handlers begin in the order in which they are registered here.
    ///
    /// # Errors
    /// When the name is taken or too long, or does not end with a followed collection.
    pub fn handler<T, F, R>(mut self, name: &str, handle: F) -> Result<Self, Mistake>
    where
        T: DeserializeOwned + Send + Sync + 'static,
        F: Fn(Event<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        if name.len() > MAX_NAME {
            return Err(Mistake::LongName(name.to_owned()));
        }
        if self.handlers.iter().any(|handler| handler.name == name) {
            return Err(Mistake::Duplicate(name.to_owned()));
        }
        // The longest that fits: Configuration may be followed beside ChannelConfiguration.
        let ends = self
            .config
            .collections
            .iter()
            .filter(|collection| name.ends_with(collection.as_str()));
        let Some(collection) = ends
            .max_by_key(|collection| collection.as_str().len())
            .cloned()
        else {
            let followed = followed(&self.config.collections);
            return Err(Mistake::NoCollection {
                name: name.to_owned(),
                followed,
            });
        };
        let lens = self.lens::<T>(collection);
        self.handlers
            .push(Handler::new(name.to_owned(), lens, handle));
        Ok(self)
    }

    /// How long handlers that come later wait for one that hangs in its first attempt: 30 seconds
    /// unless told otherwise.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The replica. It does nothing until [`Replica::run`].
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn build(self) -> Result<Replica, Mistake> {
        let handlers = Handlers::new(self.handlers, self.patience);
        Ok(Replica::with(
            self.config,
            Typed::new(self.lenses, handlers),
        )?)
    }

    fn lens<T: DeserializeOwned + Send + Sync + 'static>(
        &mut self,
        collection: CollectionName,
    ) -> usize {
        let same = |lens: &Lens| lens.collection == collection && lens.kind == TypeId::of::<T>();
        self.lenses.iter().position(same).unwrap_or_else(|| {
            self.lenses.push(Lens::of::<T>(collection));
            self.lenses.len() - 1
        })
    }
}

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
