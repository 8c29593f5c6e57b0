//! What a client shows to a publisher, and which publishers it trusts: TLS and a bearer token.
//!
//! A token comes from a text or from a file that is read again when it changes. It is sent to the
//! configured base URLs and to no other, and never in plain text to another host unless that is allowed.
//! Nothing here reads the environment.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use contract::{secret_url::is_private, text::paths::ShownPath};
use reqwest::{Url, header::HeaderValue};
use tls::{ClientFiles, ClientTls, TlsError, files::Files};
use tokio::{task::spawn_blocking, time::timeout};

/// The setting that allows a token without TLS.
const ALLOW: &str = "AURA_CONFIGURATION_ALLOW_PLAINTEXT_TOKEN";
/// How long a request waits for the file of a token at most.
const READ: Duration = Duration::from_millis(500);
/// Longest token, in bytes. A JSON Web Token with many groups has some KiB.
const MAX_TOKEN: usize = 16 << 10;

/// Where a bearer token comes from.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// There is none.
    #[default]
    None,
    /// The token itself.
    Text(String),
    /// A file with nothing but the token. White space around it is removed.
    File(PathBuf),
}

/// Without the token.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(_secret) => f.write_str("Text(…)"),
            Self::File(path) => f.debug_tuple("File").field(&ShownPath(path)).finish(),
        }
    }
}

/// What a client is configured with. The default trusts the authorities of the system and shows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialSettings {
    /// The files of TLS.
    pub tls: ClientFiles,
    /// The bearer token.
    pub token: TokenSource,
    /// Whether the token may be sent by `http://` to another host, where a mesh encrypts.
    pub allow_plaintext_token: bool,
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The files of TLS, or the file of the token.
    #[error(transparent)]
    File(#[from] TlsError),
    /// A text that is no token: what is expected.
    #[error("expected {0}")]
    NoToken(&'static str),
    /// The token would be readable on the way.
    #[error(
        "a token is not sent to {0}, because everyone on the way could read it: use https://, or \
         set {ALLOW}=true where a mesh encrypts"
    )]
    Plaintext(String),
    /// User and password of the URL need the same header as the token.
    #[error("the URL {0} has a user, and a token is set: only one of them can be sent")]
    TwoCredentials(String),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// The credentials of a client. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    pub(crate) tls: ClientTls,
    token: Token,
    allow_plaintext_token: bool,
}

#[derive(Clone, Default)]
enum Token {
    #[default]
    None,
    /// There is one, and it is not for this service.
    Withheld,
    Text(HeaderValue),
    File(Arc<TokenFile>),
}

struct TokenFile {
    files: Files,
    current: RwLock<HeaderValue>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Withheld => "Withheld",
            Self::Text(_) => "Text(…)",
            Self::File(_) => "File(…)",
        })
    }
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or used, or the token is none.
    pub fn open(settings: CredentialSettings) -> Result<Self, CredentialError> {
        let tls = ClientTls::open(settings.tls)?;
        Self::of(tls, settings.token, settings.allow_plaintext_token)
    }

    /// As [`Credentials::open`], where the files of TLS are read.
    ///
    /// # Errors
    /// When the file of the token cannot be read or used, or the token is none.
    pub fn of(
        tls: ClientTls,
        token: TokenSource,
        allow_plaintext_token: bool,
    ) -> Result<Self, CredentialError> {
        let token = match token {
            TokenSource::None => Token::None,
            TokenSource::Text(text) => {
                Token::Text(bearer(text.as_bytes()).map_err(CredentialError::NoToken)?)
            }
            TokenSource::File(path) => {
                let (files, contents) = Files::open("the token", vec![path])?;
                let current = RwLock::new(bearer_of(&files, &contents[0])?);
                Token::File(Arc::new(TokenFile { files, current }))
            }
        };
        Ok(Self {
            tls,
            token,
            allow_plaintext_token,
        })
    }

    /// Whether they tell a service who this client is.
    pub fn name_the_client(&self) -> bool {
        self.has_token() || self.tls.has_identity()
    }

    /// The same without the token: for a URL that is not of the configuration.
    #[must_use]
    pub fn without_token(&self) -> Self {
        Self {
            token: match self.token {
                Token::None => Token::None,
                _ => Token::Withheld,
            },
            ..self.clone()
        }
    }

    fn has_token(&self) -> bool {
        matches!(self.token, Token::Text(_) | Token::File(_))
    }

    /// Why a service got no credential, and the remedy; `None` when it got one.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        match self.token {
            Token::Text(_) | Token::File(_) => None,
            _ if self.tls.has_identity() => None,
            Token::Withheld => Some(
                "the token was not sent, because it is for services that you name and this address \
                 is not one of them: name it with --subscriber",
            ),
            Token::None => Some(
                "no token was sent: name the file that has one with AURA_CONFIGURATION_TOKEN_FILE, or \
                 with --token-file of confcast",
            ),
        }
    }

    /// Whether requests to this base URL may carry the token, if there is one.
    ///
    /// # Errors
    /// [`CredentialError::Plaintext`] and [`CredentialError::TwoCredentials`].
    pub fn check(&self, base: &Url) -> Result<(), CredentialError> {
        if !self.has_token() {
            return Ok(());
        }
        if !base.username().is_empty() || base.password().is_some() {
            let origin = base.origin().ascii_serialization();
            return Err(CredentialError::TwoCredentials(origin));
        }
        self.check_privacy(base)
    }

    /// Whether requests to this base URL may carry a token of any kind.
    ///
    /// # Errors
    /// [`CredentialError::Plaintext`].
    pub fn check_privacy(&self, base: &Url) -> Result<(), CredentialError> {
        if is_private(base) || self.allow_plaintext_token {
            Ok(())
        } else {
            let origin = base.origin().ascii_serialization();
            Err(CredentialError::Plaintext(origin))
        }
    }

    /// Reads files that are due, and gives the value of `Authorization`, if there is a token.
    pub(crate) async fn fresh(&self) -> Option<HeaderValue> {
        self.tls.refresh().await;
        match &self.token {
            Token::None | Token::Withheld => None,
            Token::Text(token) => Some(token.clone()),
            Token::File(file) => {
                if file.files.is_due() {
                    let file = file.clone();
                    // A file system that does not answer must not hold a request up.
                    drop(timeout(READ, spawn_blocking(move || file.reload())).await);
                }
                let current = file.current.read().unwrap_or_else(PoisonError::into_inner);
                Some(current.clone())
            }
        }
    }
}

impl TokenFile {
    fn reload(&self) {
        self.files.reload(|contents| {
            let token = bearer_of(&self.files, &contents[0])?;
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = token;
            Ok(())
        });
    }
}

fn bearer_of(files: &Files, content: &[u8]) -> Result<HeaderValue, TlsError> {
    bearer(content.trim_ascii()).map_err(|expected| TlsError::Form {
        path: files.path(0).to_owned(),
        expected,
    })
}

/// The value of `Authorization` (RFC 6750 section 2.1).
///
/// # Errors
/// What is expected instead.
fn bearer(token: &[u8]) -> Result<HeaderValue, &'static str> {
    let is_token = (1..=MAX_TOKEN).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    if token.starts_with(b"Bearer ") {
        return Err("the token alone, without the word Bearer");
    }
    if token.starts_with(b"{") {
        return Err(
            "a token, and this is JSON: records of tokens are for AURA_CONFIGURATION_TOKENS_FILE of a \
             service",
        );
    }
    let value = HeaderValue::from_bytes(&[b"Bearer ", token].concat());
    match value {
        Ok(mut value) if is_token => {
            value.set_sensitive(true);
            Ok(value)
        }
        _ => Err("a token: 1 to 16384 visible ASCII characters on one line"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PublisherClient, Timeouts};

    fn credentials(allow_plaintext_token: bool) -> Credentials {
        let token = TokenSource::Text("cct_hunter2".to_owned());
        let settings = CredentialSettings {
            token,
            allow_plaintext_token,
            ..CredentialSettings::default()
        };
        let shown = format!("{settings:?}");
        let credentials = Credentials::open(settings).expect("a token");
        assert!(!format!("{shown} {credentials:?}").contains("hunter2"));
        credentials
    }

    #[test]
    fn a_token_leaves_the_host_inside_of_tls_only_unless_that_is_allowed() {
        for (base, expected) in [
            ("https://publisher:8443", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:3500/v1.0/invoke/api/method", true),
            ("http://[::ffff:127.0.0.1]:1", true),
            ("http://localhost:8080", true),
            ("http://publisher:8080", false),
            ("http://10.0.0.1:8080", false),
            ("http://localhost.example:8080", false),
            ("http://127.0.0.1.example:8080", false),
        ] {
            let base: Url = base.parse().expect("a URL");
            assert_eq!(credentials(false).check(&base).is_ok(), expected, "{base}");
            assert!(credentials(true).check(&base).is_ok(), "{base}");
            assert!(Credentials::default().check(&base).is_ok(), "{base}");
        }
        let both: Url = "https://user:hunter2@publisher".parse().expect("a URL");
        let error = credentials(true).check(&both).expect_err("two");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn the_token_of_a_sidecar_on_another_host_needs_tls_as_well() {
        let client = |base: &str, allow_plaintext_token| {
            let credentials = Credentials {
                allow_plaintext_token,
                ..Credentials::default()
            };
            let token = Some(HeaderValue::from_static("hunter2"));
            let bases = [base.parse().expect("a URL")];
            PublisherClient::new(&bases, Timeouts::REPLICA, &credentials, token)
        };
        let invoked = "http://sidecar:3500/v1.0/invoke/api/method";
        let refused = client(invoked, false);
        assert!(matches!(refused, Err(CredentialError::Plaintext(_))));
        assert!(client(invoked, true).is_ok());
        for base in [
            "https://sidecar:3500/v1.0/invoke/api/method",
            "http://127.0.0.1:3500/v1.0/invoke/api/method",
            // It gets no such token.
            "http://publisher:8080",
        ] {
            assert!(client(base, false).is_ok(), "{base}");
        }
    }

    #[tokio::test]
    async fn a_token_from_a_file_changes_with_it_and_a_wrong_one_does_not_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "first\n").expect("written");
        let credentials = Credentials::open(CredentialSettings {
            token: TokenSource::File(path.clone()),
            ..CredentialSettings::default()
        })
        .expect("a token");
        let Token::File(file) = &credentials.token else {
            panic!("it is a file");
        };
        for (content, expected) in [
            ("first\n", "Bearer first"),
            ("second\r\n", "Bearer second"),
            ("two words", "Bearer second"),
            ("", "Bearer second"),
            ("third", "Bearer third"),
        ] {
            std::fs::write(&path, content).expect("written");
            file.reload();
            let value = credentials.fresh().await.expect("a token");
            assert_eq!(value, expected);
            assert!(value.is_sensitive());
        }
    }

    #[test]
    fn a_text_that_is_no_token_is_refused() {
        for text in ["", "two words", "ümlaut", "a\nb", "Bearer a", "{\"id\":1}"] {
            let opened = Credentials::open(CredentialSettings {
                token: TokenSource::Text(text.to_owned()),
                ..CredentialSettings::default()
            });
            assert!(
                matches!(opened, Err(CredentialError::NoToken(_))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_caller_that_sent_no_credential_is_told_where_to_name_one() {
        let with_token = credentials(false);
        assert_eq!(with_token.missing(), None);
        let withheld = with_token.without_token();
        assert!(!withheld.name_the_client());
        let remedy = withheld.missing().expect("a remedy");
        assert!(remedy.contains("--subscriber"), "{remedy}");
        for none in [
            Credentials::default(),
            Credentials::default().without_token(),
        ] {
            let remedy = none.missing().expect("a remedy");
            assert!(remedy.contains("AURA_CONFIGURATION_TOKEN_FILE"), "{remedy}");
        }
    }
}
