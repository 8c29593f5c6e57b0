//! TLS of the servers and clients of this project, by rustls: certificates and keys from files that
//! are read again when they change.
//!
//! | module | content |
//! |---|---|
//! | [`server`] | certificate and key of a server, and which client certificates it takes |
//! | [`client`] | which servers a client trusts, and the certificate that it shows |
//! | [`certificate`] | name and lifetime of a certificate |
//! | [`files`] | files that are read again when they change |
//! | [`regular_file`] | bounded reads of files |
//!
//! The lowest version is TLS 1.2 (rustls has none below). Only certificates decide whom to trust: nothing
//! here can switch a check off. Nothing here opens a connection, knows HTTP, or reads the environment.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub mod certificate;
pub mod client;
mod error;
pub mod files;
mod pem;
pub mod regular_file;
pub mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use client::{ClientFiles, ClientTls};
pub use error::TlsError;
pub use server::{ClientCertificates, ServerFiles, ServerTls};

/// The cryptography of every connection. The default of the process is not used: a service that embeds
/// a part of this project may have installed another one.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
}
