//! The client certificate of a connection, as its requests see it. Nothing is verified here: the TLS
//! handshake did that, or there is no name.

use std::sync::Arc;

/// The name in the verified client certificate of a connection; `None` without TLS, or where the
/// client showed none. Every request has one: `request.conn_data::<PeerCertificate>()`.
///
/// It is the first URI among the subject alternative names (the form of SPIFFE identities), else the
/// first DNS name, else the common name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCertificate(pub Option<Arc<str>>);
