//! TLS of a server: its certificate, and which client certificates it takes.

use std::{
    convert::Infallible,
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use contract::text::paths::ShownPath;
use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    TlsError,
    certificate::{Lifetime, Remaining},
    files::{Contents, Files, POLL},
    pem, provider,
};

/// Interval of the log lines about a certificate that expires soon.
const WARN: Duration = Duration::from_secs(3_600);
/// The one protocol of the servers.
const ALPN: &[u8] = b"http/1.1";

/// The files of a server, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The certificate, followed by those between it and an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Which client certificates are taken.
    pub clients: ClientCertificates,
}

/// Which client certificates a server takes. The authorities are those of a file; a certificate of
/// any other authority is refused, also where none is required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    /// The server asks for none.
    None,
    /// A client may show one.
    Optional(PathBuf),
    /// A client without one gets no connection.
    Required(PathBuf),
}

/// TLS of a server. Cloning shares it.
#[derive(Clone)]
pub struct ServerTls(Arc<Shared>);

struct Shared {
    files: Files,
    clients: ClientCertificates,
    current: ArcSwap<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    lifetime: Option<Lifetime>,
}

/// A text that names no [`ClientCertificates`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected none, optional or required")]
pub struct InvalidClientCertMode;

/// How client certificates are asked for, without the authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertMode {
    /// The server asks for none.
    None,
    /// A client may show one.
    Optional,
    /// A client must show one.
    Required,
}

impl FromStr for ClientCertMode {
    type Err = InvalidClientCertMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "none" => Ok(Self::None),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err(InvalidClientCertMode),
        }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = ShownPath(self.0.files.path(0));
        f.debug_tuple("ServerTls").field(&file).finish()
    }
}

impl ServerTls {
    /// Whether clients are asked for a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.0.clients != ClientCertificates::None
    }

    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or they cannot be used together.
    pub fn open(files: ServerFiles) -> Result<Self, TlsError> {
        let ServerFiles {
            certificate,
            key,
            clients,
        } = files;
        let mut paths = vec![certificate, key];
        paths.extend(clients.authorities().cloned());
        let (files, contents) = Files::open("the TLS server", paths)?;
        let current = Current::new(&files, &contents, &clients)?;
        let shared = Shared {
            files,
            clients,
            current: ArcSwap::from_pointee(current),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// What the next handshake uses.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.current.load().config.clone()
    }

    /// Reads the files every few seconds and uses what changed, until `stop`. It also reports a
    /// certificate that expires soon.
    ///
    /// # Errors
    /// Never.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut warned = None;
        loop {
            self.report_expiry(&mut warned);
            if stop.run_until_cancelled(sleep(POLL)).await.is_none() {
                return Ok(());
            }
            let this = self.clone();
            let reading = spawn_blocking(move || this.reload());
            // A file system that does not answer must not delay the stop of the process.
            let Some(_read) = stop.run_until_cancelled(reading).await else {
                return Ok(());
            };
        }
    }

    /// Reads the files and uses what changed.
    pub fn reload(&self) {
        let Shared {
            files,
            clients,
            current,
        } = &*self.0;
        files.reload(|contents| {
            current.store(Arc::new(Current::new(files, contents, clients)?));
            Ok(())
        });
    }

    /// Reports a certificate that expires soon: once an hour, and each one at once.
    fn report_expiry(&self, warned: &mut Option<(Instant, Option<Lifetime>)>) {
        let lifetime = self.0.current.load().lifetime;
        let remaining = lifetime.map(|lifetime| lifetime.remaining(SystemTime::now()));
        if matches!(remaining, None | Some(Remaining::Enough)) {
            *warned = None;
            return;
        }
        if warned.is_some_and(|(at, of)| of == lifetime && at.elapsed() < WARN) {
            return;
        }
        *warned = Some((Instant::now(), lifetime));
        let file = ShownPath(self.0.files.path(0));
        match remaining {
            Some(Remaining::Little(left)) => warn!(
                %file,
                minutes = left.as_secs() / 60,
                "the certificate of this server expires soon: replace the files, they are read again"
            ),
            _ => error!(
                %file,
                "the certificate of this server has expired: clients refuse it until the files are \
                 replaced"
            ),
        }
    }
}

impl ClientCertificates {
    /// The file of the authorities.
    fn authorities(&self) -> Option<&PathBuf> {
        match self {
            Self::None => None,
            Self::Optional(path) | Self::Required(path) => Some(path),
        }
    }
}

impl Current {
    fn new(
        files: &Files,
        contents: &Contents,
        clients: &ClientCertificates,
    ) -> Result<Self, TlsError> {
        let pair =
            pem::certified_key((files.path(0), &contents[0]), (files.path(1), &contents[1]))?;
        let lifetime = pair.cert.first().and_then(Lifetime::of);
        let builder = ServerConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(files, error))?;
        let builder = match clients {
            ClientCertificates::None => builder.with_no_client_auth(),
            ClientCertificates::Optional(path) | ClientCertificates::Required(path) => {
                let roots = pem::authorities(path, &contents[2])?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, provider().clone());
                let verifier = match clients {
                    ClientCertificates::Optional(_) => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                let verifier = verifier.build().map_err(|error| TlsError::Authorities {
                    path: path.clone(),
                    reason: error.to_string(),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        if *clients != ClientCertificates::None {
            // A resumed session would keep the client certificate of its first handshake, also when
            // it has expired or its authority is no longer trusted.
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        Ok(Self {
            config: Arc::new(config),
            lifetime,
        })
    }
}

fn unusable(files: &Files, error: rustls::Error) -> TlsError {
    TlsError::Pair {
        certificate: files.path(0).to_owned(),
        key: files.path(1).to_owned(),
        reason: error.to_string(),
    }
}
