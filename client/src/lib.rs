//! The publisher's HTTP API as a client.
//!
//! A replica, the command line and the tests use this crate, so all of them agree about timeouts,
//! size limits, tokens, errors and retries. A subscriber serves the read half of the same API, so
//! everything that reads works against a subscriber too.
//!
//! Reading order: [`Endpoint`] (one base URL, and how a request is sent), [`PublisherClient`]
//! (several endpoints of the same publisher), [`Credentials`], [`ClientError`], [`retry`], then one module per
//! subject: [`heads`], [`documents`], [`change_sets`], [`applied`], [`snapshot`], [`feed`], [`live_feed`],
//! [`check_in`], [`replicas`], [`status`], [`schemas`], [`epoch`], [`repair`], [`history`],
//! [`rollback`], [`dead_letters`], [`audit`].
//!
//! This crate holds no documents, keeps no state between two requests except which endpoint
//! answered last, and never repeats a request unless its caller runs it through [`retry`]. It never
//! uses a proxy and never follows a redirect, because publishers are inside the own network.

pub mod answer;
pub mod applied;
pub mod audit;
pub mod change_sets;
pub mod check_in;
pub mod credentials;
pub mod dead_letters;
pub mod documents;
pub mod endpoint;
pub mod epoch;
pub mod error;
pub mod feed;
pub mod heads;
pub mod history;
pub mod identity;
pub mod lines;
pub mod live_feed;
mod pace;
pub mod publisher_client;
pub mod repair;
pub mod replicas;
pub mod retry;
pub mod rollback;
pub mod schemas;
pub mod snapshot;
pub mod status;
pub mod timeouts;
pub mod tokens;
mod turns;
pub mod version;

pub use credentials::{CredentialError, CredentialSettings, Credentials, TokenSource};
pub use endpoint::{Endpoint, http};
pub use error::{BodyError, ClientError, RefusedError};
pub use publisher_client::{AttemptError, PublisherClient};
pub use reqwest::Url;
pub use retry::{RetryPolicy, Waits};
pub use timeouts::Timeouts;
pub use tls::{ClientFiles, ClientTls, TlsError};
