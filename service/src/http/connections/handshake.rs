//! The begin of a connection inside of TLS. The peer has the time of the head of a request for it, and
//! is among the first that are disconnected when there are too many connections.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use actix_web::rt::net::TcpStream;
use contract::{Problem, ProblemKind, problem::MEDIA_TYPE};
use tls::certificate;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

use super::{PeerCertificate, State};

/// Bytes of a request without TLS that are read after its answer, so that the answer arrives.
const UNREAD: u64 = 64 << 10;

/// Makes the handshake, within `limit`.
///
/// # Errors
/// When the peer is late, speaks no TLS, or shows no certificate that the server takes; also when the
/// connection was closed in favour of another one.
pub(super) async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    state: &State,
    limit: Duration,
) -> io::Result<(TlsStream<TcpStream>, PeerCertificate)> {
    let mut handshake = pin!(timeout(limit, begin(stream, config)));
    let stream = poll_fn(|context| {
        state.waker.register(context.waker());
        if state.closed.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        handshake
            .as_mut()
            .poll(context)
            .map(|done| done.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())))
    })
    .await?;
    let (_socket, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let name = shown.and_then(certificate::name);
    Ok((stream, PeerCertificate(name)))
}

async fn begin(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    // A TLS record begins with a control character, a request of HTTP with its method.
    if first[0].is_ascii_uppercase() {
        stream.write_all(without_tls().as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(UNREAD), &mut tokio::io::sink()).await?;
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a request without TLS",
        ));
    }
    TlsAcceptor::from(config).accept(stream).await
}

/// The answer to a request without TLS.
fn without_tls() -> String {
    let problem = Problem::new(
        ProblemKind::BadRequest,
        "This port takes connections with TLS only: use https:// in the URL",
    );
    let body = serde_json::to_string(&problem).unwrap_or_default();
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}
