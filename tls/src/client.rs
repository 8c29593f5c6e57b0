//! TLS of a client: which servers it trusts, and the certificate that it shows.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    TlsError,
    files::{self, Contents, Files},
    pem, provider,
};

/// How long a request waits for the files at most; it is sent with what was read before then.
const READ: Duration = Duration::from_millis(500);
/// The one protocol of the clients.
const ALPN: &[u8] = b"http/1.1";

/// The files of a client, in PEM form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities of servers. They are trusted instead of those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to servers which ask for one, and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ClientFiles {
    /// The files as settings name them, each optional.
    ///
    /// # Errors
    /// [`TlsError::HalfPair`] when there is a certificate without a key, or a key without a certificate.
    pub fn new(
        ca: Option<PathBuf>,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Self, TlsError> {
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(TlsError::HalfPair),
        };
        Ok(Self { ca, identity })
    }

    /// What is in the files, checked: the authorities, and the certificate with its key. For clients
    /// that make TLS themselves. It blocks for as long as reading takes.
    ///
    /// # Errors
    /// When one cannot be read or used.
    #[allow(clippy::type_complexity, reason = "each part is the content of a file")]
    pub fn read(&self) -> Result<(Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>), TlsError> {
        ClientTls::open(self.clone())?;
        let ca = self.ca.as_deref().map(files::content).transpose()?;
        let identity = match &self.identity {
            Some((certificate, key)) => Some((files::content(certificate)?, files::content(key)?)),
            None => None,
        };
        Ok((ca, identity))
    }
}

/// TLS of a client. Cloning shares it. The default trusts the authorities of the system and shows no
/// certificate.
#[derive(Clone)]
pub struct ClientTls(Arc<Shared>);

struct Shared {
    which: ClientFiles,
    files: Option<Files>,
    current: ArcSwap<Current>,
}

struct Current {
    /// The authorities of a file; `None` for those of the system.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    identity: Option<Arc<CertifiedKey>>,
}

impl Default for ClientTls {
    fn default() -> Self {
        Self(Arc::new(Shared {
            which: ClientFiles::default(),
            files: None,
            current: ArcSwap::from_pointee(Current {
                verifier: None,
                identity: None,
            }),
        }))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTls").field(&self.0.which).finish()
    }
}

impl ClientTls {
    /// Whether it has a certificate that names this client.
    pub fn has_identity(&self) -> bool {
        self.0.which.identity.is_some()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or used.
    pub fn open(which: ClientFiles) -> Result<Self, TlsError> {
        if which == ClientFiles::default() {
            return Ok(Self::default());
        }
        let mut paths: Vec<_> = which.ca.iter().cloned().collect();
        if let Some((certificate, key)) = &which.identity {
            paths.extend([certificate.clone(), key.clone()]);
        }
        let (files, contents) = Files::open("the TLS client", paths)?;
        let current = Current::new(&which, &files, &contents)?;
        Ok(Self(Arc::new(Shared {
            which,
            files: Some(files),
            current: ArcSwap::from_pointee(current),
        })))
    }

    /// The configuration of a TLS client. It stays valid when files change: each handshake uses what was
    /// read last.
    pub fn config(&self) -> ClientConfig {
        let verifier = Arc::new(Handshakes(self.0.clone()));
        let mut config = ClientConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has the cipher suites of every version")
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(verifier);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session is not verified again, also when its authority is no longer trusted.
        config.resumption = Resumption::disabled();
        config
    }

    /// Reads the files if the last time is some seconds ago, and uses what changed. Call it before a
    /// request: there is no task for it, so that a client needs none.
    pub async fn refresh(&self) {
        if !self.0.files.as_ref().is_some_and(Files::is_due) {
            return;
        }
        let shared = self.0.clone();
        // A file system that does not answer must not hold a request up.
        drop(timeout(READ, spawn_blocking(move || shared.reload())).await);
    }

    /// Reads the files and uses what changed.
    pub fn reload(&self) {
        self.0.reload();
    }
}

impl Shared {
    fn reload(&self) {
        if let Some(files) = &self.files {
            files.reload(|contents| {
                let current = Current::new(&self.which, files, contents)?;
                self.current.store(Arc::new(current));
                Ok(())
            });
        }
    }
}

impl Current {
    fn new(which: &ClientFiles, files: &Files, contents: &Contents) -> Result<Self, TlsError> {
        let mut contents = contents.iter().map(Vec::as_slice).enumerate();
        let mut next = || {
            let (index, content) = contents.next().unwrap_or_default();
            (files.path(index), content)
        };
        let verifier = match &which.ca {
            Some(_path) => {
                let (path, content) = next();
                let roots = pem::authorities(path, content)?;
                let verifier = verifier(roots).map_err(|reason| TlsError::Authorities {
                    path: path.to_owned(),
                    reason,
                })?;
                Some(verifier)
            }
            None => None,
        };
        let identity = match &which.identity {
            Some(_paths) => Some(pem::certified_key(next(), next())?),
            None => None,
        };
        Ok(Self { verifier, identity })
    }
}

fn verifier(roots: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(roots, provider().clone())
        .build()
        .map_err(|error| error.to_string())
}

/// The authorities of the system, read at the first handshake that needs them: a client that never
/// uses TLS does not pay for them, and needs none.
fn system() -> Result<&'static Arc<WebPkiServerVerifier>, rustls::Error> {
    static SYSTEM: OnceLock<Result<Arc<WebPkiServerVerifier>, String>> = OnceLock::new();
    let read = SYSTEM.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        verifier(Arc::new(roots))
    });
    read.as_ref().map_err(|_none| {
        rustls::Error::General(
            "the system has no certificate authorities: set AURA_CONFIGURATION_CA_FILE".to_owned(),
        )
    })
}

/// What each handshake asks: the newest files answer. Every check is one of rustls.
struct Handshakes(Arc<Shared>);

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handshakes").field(&self.0.which).finish()
    }
}

impl ServerCertVerifier for Handshakes {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let current = self.0.current.load();
        let verifier = match &current.verifier {
            Some(verifier) => verifier,
            None => system()?,
        };
        verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ResolvesClientCert for Handshakes {
    fn resolve(
        &self,
        _authorities: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.current.load().identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.current.load().identity.is_some()
    }
}
