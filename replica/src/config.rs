//! The configuration of a replica. It is complete when the replica is built: nothing here reads the
//! environment.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use client::Credentials;
use contract::{CollectionName, SecretUrl, fleet::Transport, secret_url};

use crate::{BuildError, EventKeys, HeaderValue, Url};

/// Default of [`Config::check_in`].
pub(crate) const CHECK_IN: Duration = Duration::from_secs(10);

/// The configuration of a replica.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the replica in status and logs.
    pub instance: String,
    /// The collections it follows; with [`Follow::Served`] those of a publisher that cannot say
    /// which it serves.
    pub collections: BTreeSet<CollectionName>,
    /// Whether other collections are followed too.
    pub follow: Follow,
    /// Base URLs of the publishers, tried in turn. A path in it (a Dapr invocation URL) is kept.
    pub publishers: Vec<SecretUrl>,
    /// Base URL of this replica, when publishers and operators may know it.
    pub base_url: Option<Url>,
    /// The longest time between two check-ins.
    pub check_in: Duration,
    /// The source of events.
    pub events: Events,
    /// The directory of the last known good configuration; without it nothing is saved on disk.
    pub snapshot_dir: Option<PathBuf>,
    /// What publishers are shown, and which of them are trusted: TLS and a bearer token. They are sent to
    /// [`Config::publishers`] and to nobody else.
    pub credentials: Credentials,
    /// The API token of the sidecar; sent to publishers behind a Dapr invocation URL and to no
    /// other. Mark it sensitive, so that it is never shown.
    pub sidecar_token: Option<HeaderValue>,
    /// The token that callers of this replica's event route must send as `dapr-api-token`. Where a
    /// publisher may post the events, every check-in carries it, so that the publisher can tell a
    /// subscriber from any other process that opened a port; it then needs `https://` to other hosts,
    /// as [`Config::credentials`]. Mark it sensitive.
    pub app_token: Option<HeaderValue>,
    /// The public keys of the publishers. With them an event that no publisher has signed changes
    /// nothing. What publishers answer is not checked with them: that comes over a connection of
    /// the replica. `None` takes every event.
    pub event_keys: Option<EventKeys>,
}

/// Which collections are followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Follow {
    /// Those of [`Config::collections`] and no other.
    #[default]
    Named,
    /// Every collection that the publishers serve, also one that they serve later; at most
    /// [`contract::fleet::MAX_SERVED`]. One that was loaded stays until the end of the process.
    Served,
}

/// The source of events.
#[derive(Debug, Clone)]
pub enum Events {
    /// None: a check-in notices changes.
    None,
    /// The service that embeds the replica passes them ([`Replica::receive`]), from a source of its
    /// own; or a sidecar or a publisher posts them, and the service does not know which.
    ///
    /// [`Replica::receive`]: crate::Replica::receive
    Posted,
    /// A sidecar posts them (transport `DAPR`), to the routes of the feature `actix`.
    Dapr,
    /// A publisher posts them (transport `LOCAL`), to the same routes at [`Config::base_url`].
    Local,
    /// The live feed of the publishers, or of another subscriber.
    Feed,
    /// Redis, without a sidecar.
    #[cfg(feature = "redis")]
    Redis(Box<broker::RedisConfig>),
}

impl Events {
    /// Whether they come to the service, which passes them on.
    #[cfg(any(test, feature = "actix"))]
    pub(crate) fn are_posted(&self) -> bool {
        matches!(self, Self::Posted | Self::Dapr | Self::Local)
    }

    /// Their transport, as far as it is known.
    pub(crate) fn transport(&self) -> Option<Transport> {
        match self {
            Self::None | Self::Posted => None,
            Self::Dapr => Some(Transport::Dapr),
            Self::Local => Some(Transport::Local),
            Self::Feed => Some(Transport::Feed),
            #[cfg(feature = "redis")]
            Self::Redis(_) => Some(Transport::Redis),
        }
    }
}

impl Config {
    /// What check-ins carry of [`Config::app_token`]: nothing where no publisher posts events.
    pub(crate) fn token_of_check_ins(&self) -> Option<&HeaderValue> {
        let by_publisher = matches!(self.events, Events::Posted | Events::Local);
        self.app_token.as_ref().filter(|_token| by_publisher)
    }

    /// The base URL as check-ins and status name it.
    pub(crate) fn named_url(&self) -> Option<String> {
        let url = self.base_url.as_ref()?;
        Some(url.as_str().trim_end_matches('/').to_owned())
    }

    /// The collections that are followed before a publisher was asked.
    pub(crate) fn known(&self) -> BTreeSet<CollectionName> {
        match self.follow {
            Follow::Named => self.collections.clone(),
            Follow::Served => BTreeSet::new(),
        }
    }

    /// The common case: changes come by the publisher's live feed, nothing is saved on disk, no
    /// credentials. A publisher serves at most 1,024 live feeds: with more replicas set
    /// [`Config::events`], or follow a subscriber.
    ///
    /// # Errors
    /// When a URL or a name is invalid, or when there is no publisher.
    pub fn new(
        instance: impl Into<String>,
        publishers: impl IntoIterator<Item = impl AsRef<str>>,
        collections: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, BuildError> {
        let publishers = publishers
            .into_iter()
            .map(|text| publisher_url(text.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let collections = collections
            .into_iter()
            .map(|name| name.as_ref().parse())
            .collect::<Result<_, _>>()?;
        if publishers.is_empty() {
            return Err(BuildError::Publisher(String::new()));
        }
        Ok(Self {
            instance: instance.into(),
            collections,
            follow: Follow::Named,
            publishers,
            base_url: None,
            check_in: CHECK_IN,
            events: Events::Feed,
            snapshot_dir: None,
            credentials: Credentials::default(),
            sidecar_token: None,
            app_token: None,
            event_keys: None,
        })
    }
}

/// The URL of a publisher.
///
/// # Errors
/// When the text is not the base URL of a service.
fn publisher_url(text: &str) -> Result<SecretUrl, BuildError> {
    SecretUrl::http_base(text.trim())
        .map_err(|_reason| BuildError::Publisher(secret_url::redacted(text)))
}
