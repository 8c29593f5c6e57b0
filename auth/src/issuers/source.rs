//! Where the keys of an issuer come from, and how long they are used: a file, or a URL that is asked
//! again when a token names an unknown key.
//!
//! One request at a time asks an issuer, and not more often than [`Pace`] says, whatever tokens
//! arrive. An issuer that does not answer leaves the keys in force that it gave before, for a bounded
//! time.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use contract::{secret_url, sha256::Sha256, text::Escaped};
use futures_util::StreamExt;
use reqwest::{Client, Url};
use tokio::{
    sync::Mutex,
    time::{error::Elapsed, timeout},
};
use tracing::{info, warn};

use super::keys::{Keys, MAX_SET};
use crate::ReadFile;

/// How often an issuer is asked for its keys, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Shortest time between two requests.
    pub(super) min_interval: Duration,
    /// Age at which keys are asked for again: a key that an issuer withdraws is refused after this
    /// time at the latest, while the issuer answers.
    pub(super) refresh_age: Duration,
    /// Time limit of a request.
    pub(super) timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(10),
            refresh_age: Duration::from_secs(300),
            timeout: Duration::from_secs(5),
        }
    }
}

/// The keys of an issuer, kept up to date.
pub(super) struct KeySource {
    issuer: String,
    place: Place,
    /// Longest age of keys that are used.
    max_age: Duration,
    pace: Pace,
    read: ReadFile,
    current: ArcSwapOption<Current>,
    /// Held by the one request that asks the issuer; the time of the last one.
    asking: Mutex<Option<Instant>>,
    /// The last failure that was logged.
    failure: SyncMutex<Option<String>>,
}

/// Where a key set is.
pub(super) enum Place {
    /// A file.
    File(PathBuf),
    /// A URL.
    Url {
        /// With TLS, or on loopback.
        url: Url,
        /// Follows no redirect.
        client: Client,
        /// A file with the token that the issuer asks for.
        token: Option<PathBuf>,
        /// The file of authorities that the client trusts.
        authorities: Option<PathBuf>,
    },
}

impl Place {
    /// Whether keys of the other one are keys of this one.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(path), Self::File(known)) => path == known,
            (
                Self::Url {
                    url, authorities, ..
                },
                Self::Url {
                    url: known,
                    authorities: of_known,
                    ..
                },
            ) => url == known && authorities == of_known,
            _ => false,
        }
    }
}

/// Without what a URL keeps secret.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => Escaped(path.display()).fmt(f),
            Self::Url { url, .. } => f.write_str(&secret_url::redacted(url.as_str())),
        }
    }
}

struct Current {
    /// The same ones for as long as the issuer gives the same bytes.
    keys: Arc<Keys>,
    /// Hash of these bytes.
    digest: Sha256,
    since: Instant,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("{0}")]
    Request(String),
    #[error("it answers {0}")]
    Status(reqwest::StatusCode),
    #[error("it does not answer in time")]
    Late(#[from] Elapsed),
    #[error("its answer is larger than {MAX_SET} bytes")]
    TooLarge,
    #[error("{0}")]
    Set(String),
}

impl KeySource {
    /// No keys yet.
    pub(super) fn new(issuer: &str, place: Place, max_age: Duration, read: ReadFile) -> Self {
        Self {
            issuer: issuer.to_owned(),
            place,
            max_age,
            pace: Pace::default(),
            read,
            current: ArcSwapOption::empty(),
            asking: Mutex::new(None),
            failure: SyncMutex::new(None),
        }
    }

    /// Takes the keys of a source over, and when they were asked for, if it has the same place. Their age
    /// counts on.
    pub(super) fn take_over(&self, former: &Self) {
        if !self.place.is_same(&former.place) {
            return;
        }
        self.current.store(former.current.load_full());
        // One that is being asked is asked now.
        let now = Instant::now();
        let asked = former.asking.try_lock().map_or(Some(now), |last| *last);
        // Nobody else has this source yet.
        if let Ok(mut last) = self.asking.try_lock() {
            *last = asked;
        }
    }

    /// Calls `verify` with the keys until it gives something: with those at hand, and, if these do not
    /// have the key, once more with those of the issuer. `Err` when no keys can be had.
    pub(super) async fn find<T>(
        &self,
        mut verify: impl FnMut(&Arc<Keys>) -> Option<T>,
    ) -> Result<Option<T>, ()> {
        let before = self.usable();
        if let Some(found) = before.as_deref().and_then(|current| verify(&current.keys)) {
            return Ok(Some(found));
        }
        self.ask(before.as_ref()).await;
        match self.usable() {
            Some(after)
                if before
                    .as_ref()
                    .is_some_and(|before| Arc::ptr_eq(&before.keys, &after.keys)) =>
            {
                Ok(None)
            }
            Some(after) => Ok(verify(&after.keys)),
            None => Err(()),
        }
    }

    /// The keys at hand, if they are not too old. It does not wait.
    pub(super) fn usable_keys(&self) -> Option<Arc<Keys>> {
        self.usable().map(|current| Arc::clone(&current.keys))
    }

    /// SHA-256 of the set that the issuer gave last, if it is in force.
    pub(super) fn digest(&self) -> Option<Sha256> {
        self.usable().map(|current| current.digest)
    }

    fn usable(&self) -> Option<Arc<Current>> {
        let current = self.current.load_full();
        current.filter(|current| current.since.elapsed() <= self.max_age)
    }

    /// Asks for keys unless somebody has just done so.
    async fn ask(&self, seen: Option<&Arc<Current>>) {
        let mut last = self.asking.lock().await;
        let current = self.current.load_full();
        let is_newer = match (seen, &current) {
            (Some(seen), Some(current)) => !Arc::ptr_eq(seen, current),
            (None, current) => current
                .as_ref()
                .is_some_and(|current| current.since.elapsed() <= self.max_age),
            (Some(_), None) => false,
        };
        if is_newer || last.is_some_and(|last| last.elapsed() < self.pace.min_interval) {
            return;
        }
        // Before the request: one that is dropped counts as well.
        *last = Some(Instant::now());
        self.fetch().await;
    }

    /// Asks for keys that are about to become too old. For the task that keeps them up to date.
    pub(super) async fn refresh(&self) {
        let age = self
            .current
            .load_full()
            .map(|current| current.since.elapsed());
        let is_due = match self.place {
            Place::File(_) => true,
            Place::Url { .. } => age.is_none_or(|age| age >= self.pace.refresh_age),
        };
        if !is_due {
            return;
        }
        let mut last = self.asking.lock().await;
        let is_file = matches!(self.place, Place::File(_));
        if is_file || last.is_none_or(|last| last.elapsed() >= self.pace.min_interval) {
            *last = Some(Instant::now());
            self.fetch().await;
        }
    }

    async fn fetch(&self) {
        let bytes = match timeout(self.pace.timeout, self.bytes()).await {
            Ok(bytes) => bytes,
            Err(late) => Err(late.into()),
        };
        let now = Instant::now();
        let keys = bytes.and_then(|bytes| self.keys_of(&bytes, now).map_err(FetchError::Set));
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match keys {
            Ok(current) => {
                if failure.take().is_some() {
                    info!(
                        issuer = self.issuer,
                        "the keys of the issuer can be read again"
                    );
                }
                self.current.store(Some(Arc::new(current)));
            }
            Err(error) => {
                let error = Some(error.to_string());
                if *failure != error {
                    let follows = match self.current.load().is_some() {
                        true => format!(
                            "those that are known stay in force for {} s",
                            self.max_age.as_secs()
                        ),
                        false => "none are known, so no token of it is accepted".to_owned(),
                    };
                    warn!(
                        issuer = self.issuer,
                        "the keys of the issuer cannot be read from {}, {follows}: {}",
                        self.place,
                        error.as_deref().unwrap_or_default()
                    );
                    *failure = error;
                }
            }
        }
    }

    /// The keys of a set: those at hand if it is the same set.
    fn keys_of(&self, bytes: &[u8], since: Instant) -> Result<Current, String> {
        let digest = Sha256::of(&[bytes]);
        let current = self.current.load_full();
        let same = current.filter(|current| current.digest == digest);
        let keys = match same {
            Some(current) => Arc::clone(&current.keys),
            None => Arc::new(Keys::read(bytes)?),
        };
        Ok(Current {
            keys,
            digest,
            since,
        })
    }

    async fn bytes(&self) -> Result<Vec<u8>, FetchError> {
        let (url, client, token) = match &self.place {
            Place::File(path) => return Ok(self.file(path.clone()).await?),
            Place::Url {
                url, client, token, ..
            } => (url, client, token),
        };
        let mut request = client.get(url.clone()).header("accept", "application/json");
        if let Some(path) = token {
            let token = self.file(path.clone()).await?;
            request = request.bearer_auth(String::from_utf8_lossy(&token).trim());
        }
        let failed = |error: reqwest::Error| {
            // Its own text says only that something failed.
            let error = anyhow::Error::from(error.without_url());
            FetchError::Request(format!("{error:#}"))
        };
        let answer = request.send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(FetchError::Status(answer.status()));
        }
        let mut body = answer.bytes_stream();
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(failed)?);
            if bytes.len() as u64 > MAX_SET {
                return Err(FetchError::TooLarge);
            }
        }
        Ok(bytes)
    }

    async fn file(&self, path: PathBuf) -> io::Result<Vec<u8>> {
        let read = self.read;
        tokio::task::spawn_blocking(move || read(&path, MAX_SET))
            .await
            .map_err(io::Error::other)?
    }

    #[cfg(test)]
    pub(super) fn url(&self) -> Option<&Url> {
        match &self.place {
            Place::File(_path) => None,
            Place::Url { url, .. } => Some(url),
        }
    }

    #[cfg(test)]
    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySource({})", self.issuer)
    }
}
