//! The decision about what a request presents. It is the only code that makes an [`Identity`] of a
//! credential.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use chrono::Utc;
use contract::{
    access::{ANONYMOUS, Grant, Identity},
    sha256::Sha256,
    text::paths::ShownPath,
    token::{PREFIX, TokenName, TokenRecord},
};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{
    HttpClient, ReadFile,
    certificates::CertificateMap,
    issuers::Issuers,
    table::{TokenTable, hash_of},
};

/// Time between two looks at the files.
const POLL: Duration = Duration::from_secs(2);
/// Largest file of tokens, certificates or issuers, in bytes.
const MAX_FILE: u64 = 16 << 20;
/// The scheme of the header `Authorization` (RFC 6750).
const SCHEME: &str = "Bearer";

/// What a request presents, as a service found it. Nothing in it is proven yet but the certificate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The header `Authorization`; `None` when the request has none.
    pub authorization: Option<&'a str>,
    /// The name in the client certificate that the TLS handshake verified.
    pub certificate: Option<&'a str>,
    /// Whether the request comes from this host, and no header says that it was forwarded.
    pub is_local: bool,
}

/// Why a request is refused. The text is for the caller, and repeats nothing that it sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request has no credential.
    #[error("send a token in the header Authorization: Bearer TOKEN")]
    Missing,
    /// The credential is none that is accepted here.
    #[error("{0}")]
    Invalid(String),
    /// It is not known whether the credential is valid.
    #[error("{0}")]
    Unavailable(String),
}

/// What a caller without a credential may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Anonymous {
    /// Everything: no credential is looked at.
    #[default]
    Allowed,
    /// Everything, when it is on this host.
    Local,
    /// Nothing.
    Refused,
}

/// The files with credentials, each optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Records of tokens, one in each line.
    pub tokens: Option<PathBuf>,
    /// Issuers of JSON Web Tokens.
    pub issuers: Option<PathBuf>,
    /// Names in client certificates.
    pub certificates: Option<PathBuf>,
}

/// What a file with credentials is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Records of tokens.
    Tokens,
    /// Issuers of JSON Web Tokens.
    Issuers,
    /// Names in client certificates.
    Certificates,
}

impl FileKind {
    /// Every kind, in the order in which the files are read.
    const ALL: [Self; 3] = [Self::Tokens, Self::Issuers, Self::Certificates];

    /// As the audit log names it.
    fn source(self) -> &'static str {
        match self {
            Self::Tokens => "tokens-file",
            Self::Issuers => "issuers-file",
            Self::Certificates => "certificates-file",
        }
    }
}

impl Files {
    /// The file of a kind.
    fn of(&self, kind: FileKind) -> Option<&PathBuf> {
        match kind {
            FileKind::Tokens => self.tokens.as_ref(),
            FileKind::Issuers => self.issuers.as_ref(),
            FileKind::Certificates => self.certificates.as_ref(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How an [`Authenticator`] is built.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What a caller without a credential may do.
    pub anonymous: Anonymous,
    /// The files with credentials.
    pub files: Files,
    /// Reads them.
    pub read: ReadFile,
    /// Makes the clients that ask issuers for their keys.
    pub http: HttpClient,
}

/// A file with credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", ShownPath(path))]
pub struct FileError {
    /// What the file is for.
    pub kind: FileKind,
    /// The file.
    pub path: PathBuf,
    /// The fault in words; it has no part of the file that may be secret.
    pub reason: String,
}

/// The tokens of a store, as its reader last saw them. Cloning shares them.
///
/// Until the first read no token of the store is known to be invalid, so callers are asked to try
/// again.
#[derive(Debug, Clone, Default)]
pub struct StoreTokens(Arc<ArcSwapOption<TokenTable>>);

impl StoreTokens {
    /// Replaces all of them.
    pub fn set(&self, records: impl IntoIterator<Item = TokenRecord>) {
        self.0.store(Some(Arc::new(TokenTable::of(records))));
    }
}

/// Decides who a caller is.
#[derive(Debug)]
pub struct Authenticator {
    setup: Setup,
    /// Kept, because cloning it is cheap and making it is not.
    unrestricted: Identity,
    /// Tokens of the file.
    tokens: ArcSwap<TokenTable>,
    issuers: ArcSwap<Issuers>,
    certificates: ArcSwap<CertificateMap>,
    /// Tokens of the store, where there is one.
    store: OnceLock<StoreTokens>,
    /// What was last read of each file, and what was last said of it.
    seen: Mutex<[Seen; 3]>,
}

#[derive(Debug, Default)]
struct Seen {
    content: Vec<u8>,
    /// Other content that the last look found.
    changed: Option<Sha256>,
    failure: Option<String>,
}

fn no_file(_path: &Path, _most: u64) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}

fn no_client(_authorities: Option<&Path>) -> Result<reqwest::Client, String> {
    Err("there is no client".to_owned())
}

impl Authenticator {
    /// Asks for no credential: every caller has every right.
    pub fn open() -> Self {
        let setup = Setup {
            anonymous: Anonymous::Allowed,
            files: Files::default(),
            read: no_file,
            http: no_client,
        };
        Self::empty(setup)
    }

    /// Knows no credential, and refuses every caller.
    pub fn refusing() -> Self {
        let mut refusing = Self::open();
        refusing.setup.anonymous = Anonymous::Refused;
        refusing
    }

    fn empty(setup: Setup) -> Self {
        Self {
            setup,
            unrestricted: Identity::unrestricted(),
            tokens: ArcSwap::default(),
            issuers: ArcSwap::default(),
            certificates: ArcSwap::default(),
            store: OnceLock::new(),
            seen: Mutex::default(),
        }
    }

    /// Reads the files. It blocks for as long as reading takes; no issuer is asked yet.
    ///
    /// # Errors
    /// Every file that cannot be used.
    pub fn new(setup: Setup) -> Result<Self, Vec<FileError>> {
        let new = Self::empty(setup);
        let mut wrong = Vec::new();
        let mut seen = new.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, seen) in FileKind::ALL.into_iter().zip(seen.iter_mut()) {
            let Some(path) = new.setup.files.of(kind) else {
                continue;
            };
            let read = new.content(path);
            match read.and_then(|content| new.take(kind, &content).map(|()| content)) {
                Ok(content) => seen.content = content,
                Err(reason) => wrong.push(FileError {
                    kind,
                    path: path.clone(),
                    reason,
                }),
            }
        }
        drop(seen);
        if wrong.is_empty() {
            Ok(new)
        } else {
            Err(wrong)
        }
    }

    /// Accepts the tokens of a store as well, from now on. Only the first store counts.
    pub fn use_store(&self, tokens: StoreTokens) {
        self.store.get_or_init(|| tokens);
    }

    /// What a caller without a credential may do.
    pub fn anonymous(&self) -> Anonymous {
        self.setup.anonymous
    }

    /// Whether every caller has every right, because no credential is asked for.
    pub fn is_open(&self) -> bool {
        self.setup.anonymous == Anonymous::Allowed
    }

    /// Whether a token of the file has this name and other grants: a new one must not have the name.
    pub fn file_keeps_from(&self, name: &TokenName, grants: &[Grant]) -> bool {
        self.tokens.load().keeps_from(name, grants)
    }

    /// SHA-256 of each file that is in force, by what the file is, and of the setting that lets callers of
    /// this host in without a credential; `None` while files are read. It does not wait.
    pub fn in_force(&self) -> Option<Vec<(&'static str, Sha256)>> {
        let seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(seen)) => seen.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let kinds = FileKind::ALL.into_iter().zip(seen.iter());
        // An empty file is in force too: it has no credential.
        let read = kinds.filter(|(kind, _seen)| self.setup.files.of(*kind).is_some());
        let digests = read.map(|(kind, seen)| (kind.source(), Sha256::of(&[&seen.content])));
        let anonymous = (self.setup.anonymous == Anonymous::Local)
            .then(|| ("anonymous-loopback", Sha256::of(&[b"loopback"])));
        Some(digests.chain(anonymous).collect())
    }

    /// SHA-256 of the key set of each issuer that is in force, by the name of the issuer. It does not
    /// wait; a set that an issuer replaced in between is not in it.
    pub fn issuer_keys(&self) -> Vec<(String, Sha256)> {
        let issuers = self.issuers.load();
        let keys = issuers.keys_in_force();
        keys.map(|(name, digest)| (name.to_owned(), digest))
            .collect()
    }

    /// Who presents this.
    ///
    /// # Errors
    /// When the credential is missing or is not accepted. A credential that is presented decides, also
    /// where none is needed.
    pub async fn authenticate(&self, presented: Presented<'_>) -> Result<Identity, Refused> {
        if self.is_open() {
            return Ok(self.unrestricted.clone());
        }
        if let Some(header) = presented.authorization {
            let Some(token) = bearer(header) else {
                let detail = format!("the header Authorization is not: {SCHEME} TOKEN");
                return Err(Refused::Invalid(detail));
            };
            return if token.starts_with(PREFIX) {
                self.of_token(token)
            } else {
                self.of_jwt(token).await
            };
        }
        if let Some(name) = presented.certificate {
            let certificates = self.certificates.load();
            // A handshake may ask for certificates where no name of one is given a grant.
            if !certificates.is_empty() {
                return certificates.find(name);
            }
        }
        if presented.is_local && self.setup.anonymous == Anonymous::Local {
            return Ok(self.unrestricted.clone());
        }
        Err(Refused::Missing)
    }

    /// Whether a decision about this takes the check of a signature, or more. A valid token takes it
    /// once.
    pub fn must_verify(&self, presented: Presented<'_>) -> bool {
        let token = presented.authorization.and_then(bearer);
        token.is_some_and(|token| {
            !token.starts_with(PREFIX) && !self.is_open() && !self.issuers.load().knows(token)
        })
    }

    fn of_token(&self, token: &str) -> Result<Identity, Refused> {
        let hash = hash_of(token)?;
        let now = Utc::now();
        if let Some(found) = self.tokens.load().find(&hash, now) {
            return found;
        }
        let Some(store) = self.store.get() else {
            let detail = format!(
                "the token {} is not known here: this service knows the tokens of its file \
                 (AURA_CONFIGURATION_TOKENS_FILE) alone, not those of the store of a publisher",
                hash.id()
            );
            return Err(Refused::Invalid(detail));
        };
        match store.0.load().as_deref() {
            Some(table) => table.find(&hash, now).unwrap_or_else(|| {
                let detail = format!("the token {} is not known", hash.id());
                Err(Refused::Invalid(detail))
            }),
            None => {
                let detail = "the tokens of the store are not read yet";
                Err(Refused::Unavailable(detail.to_owned()))
            }
        }
    }

    async fn of_jwt(&self, token: &str) -> Result<Identity, Refused> {
        // Held over the verification, which may ask the issuer.
        let issuers = self.issuers.load_full();
        if issuers.is_empty() {
            let detail = "the token is not one of this service, and no other issuer is known";
            return Err(Refused::Invalid(detail.to_owned()));
        }
        issuers.find(token).await
    }

    /// The caller of this name ([`Identity::name`]) as it is known now, without its credential: whether a
    /// credential of that name is valid. `None` where that is not known: the claims of a JSON Web Token are
    /// in the token alone.
    ///
    /// # Errors
    /// When no valid credential has the name.
    pub fn named(&self, name: &str) -> Option<Result<Identity, Refused>> {
        let ended = || Refused::Invalid("no valid credential has this name".to_owned());
        if self.is_open() || (name == ANONYMOUS && self.setup.anonymous == Anonymous::Local) {
            return Some(Ok(self.unrestricted.clone()));
        }
        match name.split_once(':') {
            Some(("token", name)) => {
                let now = Utc::now();
                if let Some(found) = self.tokens.load().named(name, now) {
                    return Some(Ok(found));
                }
                // Until the first read of the store it is not known.
                let of_store = self.store.get().map(|store| store.0.load());
                match of_store.as_deref() {
                    Some(None) => None,
                    Some(Some(table)) => Some(table.named(name, now).ok_or_else(ended)),
                    None => Some(Err(ended())),
                }
            }
            Some(("cert", _name)) => Some(self.certificates.load().named(name)),
            Some(("jwt", _subject)) => None,
            _other => Some(Err(ended())),
        }
    }

    /// Reads files that changed, and keys of issuers that are old, until it is dropped. A change counts
    /// when two looks in a row find the same content. A file that cannot be used leaves in force what was read before.
    pub async fn keep_up_to_date(self: Arc<Self>) {
        if self.setup.files.is_empty() {
            return std::future::pending().await;
        }
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The first tick is at once.
            ticks.tick().await;
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.look()).await {
                warn!("the files with credentials could not be read: {error}");
            }
            let issuers = self.issuers.load_full();
            issuers.refresh().await;
        }
    }

    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, seen) in FileKind::ALL.into_iter().zip(seen.iter_mut()) {
            let Some(path) = self.setup.files.of(kind) else {
                continue;
            };
            let content = match self.content(path) {
                Ok(content) if content == seen.content => {
                    seen.failure = None;
                    seen.changed = None;
                    continue;
                }
                Ok(content) => {
                    // The file may be in the middle of being written: each line of it is valid.
                    let digest = Some(Sha256::of(&[&content]));
                    if seen.changed != digest {
                        seen.changed = digest;
                        continue;
                    }
                    Ok(content)
                }
                Err(error) => {
                    seen.changed = None;
                    Err(error)
                }
            };
            let file = ShownPath(path);
            match content.and_then(|content| self.take(kind, &content).map(|()| content)) {
                Ok(content) => {
                    info!(%file, "a file with credentials changed: it is in force from now on");
                    *seen = Seen {
                        content,
                        ..Seen::default()
                    };
                }
                Err(reason) if seen.failure.as_ref() != Some(&reason) => {
                    warn!(
                        %file,
                        "a file with credentials changed and cannot be used, what was read before \
                         stays in force: {reason}"
                    );
                    seen.failure = Some(reason);
                }
                Err(_known) => {}
            }
        }
    }

    fn content(&self, path: &Path) -> Result<Vec<u8>, String> {
        (self.setup.read)(path, MAX_FILE).map_err(|error| error.to_string())
    }

    /// Uses the content of a file.
    fn take(&self, kind: FileKind, content: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(content).map_err(|_other| "it is not UTF-8".to_owned())?;
        match kind {
            FileKind::Tokens => {
                let tokens = TokenTable::read(text).map_err(|error| error.to_string())?;
                if !tokens.has_valid(Utc::now()) {
                    let file = self.setup.files.tokens.as_deref().unwrap_or(Path::new(""));
                    warn!(
                        file = %ShownPath(file),
                        "the file of tokens has no token that is valid: it lets no caller in"
                    );
                }
                self.tokens.store(Arc::new(tokens));
            }
            FileKind::Issuers => {
                let issuers = Issuers::read(text, self.setup.read, self.setup.http)?;
                issuers.keep_keys(&self.issuers.load());
                self.issuers.store(Arc::new(issuers));
            }
            FileKind::Certificates => {
                let certificates = CertificateMap::read(text)?;
                self.certificates.store(Arc::new(certificates));
            }
        }
        Ok(())
    }
}

/// What one request presented, kept so that a long answer can end with its credential.
pub struct Session {
    authenticator: Arc<Authenticator>,
    /// Nothing is copied where nothing is asked for.
    authorization: Option<Box<str>>,
    certificate: Option<Box<str>>,
    is_local: bool,
}

/// Without the credential.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(…)")
    }
}

impl Session {
    /// Of a request.
    pub fn new(authenticator: Arc<Authenticator>, presented: Presented<'_>) -> Self {
        let is_open = authenticator.is_open();
        let kept = |text: Option<&str>| text.filter(|_text| !is_open).map(Box::from);
        Self {
            authorization: kept(presented.authorization),
            certificate: kept(presented.certificate),
            is_local: presented.is_local,
            authenticator,
        }
    }

    /// As [`Authenticator::authenticate`], at this time.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`].
    pub async fn check(&self) -> Result<Identity, Refused> {
        self.authenticator.authenticate(self.presented()).await
    }

    /// As [`Authenticator::must_verify`].
    pub fn must_verify(&self) -> bool {
        self.authenticator.must_verify(self.presented())
    }

    fn presented(&self) -> Presented<'_> {
        Presented {
            authorization: self.authorization.as_deref(),
            certificate: self.certificate.as_deref(),
            is_local: self.is_local,
        }
    }
}

/// The token of the header; its scheme is the same in upper and lower case (RFC 9110 section 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim_matches(' ');
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case(SCHEME) && is_token).then_some(token)
}

#[cfg(test)]
mod tests;
