//! The HTTP server of both services: the same limits and the same end, however a service is built.
//!
//! It is the server of actix-web ([`actix_web::HttpServer`]) with sockets of its own
//! ([`super::connections`]): that type has no way to limit how slowly a peer reads. Routes and
//! handlers are unchanged.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::{
    ConnectionType, HttpMessage, HttpService, KeepAlive, Payload, Protocol, Request, Response,
};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, apply_fn_factory, fn_service, map_config,
};
use actix_web::{
    Error,
    body::{BodySize, BoxBody, MessageBody},
    dev::{AppConfig, Server, ServiceResponse},
    rt::net::TcpStream,
    web::Bytes,
};
use futures_util::{Stream, stream::poll_fn};
use tls::ServerTls;
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use super::connections::{Connection, Connections, Serving, incoming::BodyLength, io::WatchedIo};
use crate::runtime::drain::Drain;

/// Threads that serve requests.
const WORKERS: usize = 2;
/// Time limit at the end for requests that have begun, in seconds; less than the grace of the
/// supervisor.
const GRACE_SECONDS: u64 = 5;
/// How long a client may take to close a connection, or to send a body that is not read.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that the kernel keeps before they are accepted.
const BACKLOG: u32 = 1_024;

/// Opens a port. Port 0 takes a free one.
///
/// # Errors
/// When the address cannot be used.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // The port of a process that has just ended can be used again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// The server of an application, with TLS or without, until `stop`. It serves while it is awaited.
/// During `drain` every answer closes its connection, so that clients connect to another process before
/// this one closes its port.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve<F, I, S>(
    listener: TcpListener,
    connections: Connections,
    tls: Option<ServerTls>,
    drain: Drain,
    stop: CancellationToken,
    app: F,
) -> io::Result<Server>
where
    F: Fn() -> I + Clone + Send + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<BoxBody>,
            Error = Error,
            InitError = (),
        > + 'static,
    S::Service: 'static,
{
    let builder = Server::build();
    let ending = builder.graceful_shutdown_signal();
    let limits = *connections.limits();
    let address = listener.local_addr()?;
    let factory = move || {
        let ending = ending.clone();
        let (connections, tls, drain) = (connections.clone(), tls.clone(), drain.clone());
        // The host of the configuration is used by no handler.
        let app = map_config(app(), |()| AppConfig::default());
        let app = apply_fn_factory(app, move |mut request: Request, app: &S::Service| {
            let connection = request.conn_data::<Connection>().cloned();
            let serving = connection.map(|connection| begin(&connection, &mut request));
            let answer = app.call(request);
            let drain = drain.clone();
            async move {
                let mut answer: Response<BoxBody> = answer.await?.into();
                if drain.has_begun() {
                    answer.head_mut().set_connection_type(ConnectionType::Close);
                }
                Ok::<_, Error>(answer.map_body(|_head, body| Served {
                    body,
                    _until_sent: serving,
                }))
            }
        });
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let ending = ending.clone();
                async move { ending.notified().await }
            })
            // The socket ends idle connections: a timer of the server for each request would cost more.
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(limits.head)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            // A client that has closed its end has gone: what waits for it is dropped.
            .h1_allow_half_closed(false)
            .local_addr(address)
            .on_connect_ext(|io: &WatchedIo, extensions| io.remember(extensions))
            .finish(app);
        let accept = fn_service(move |stream: TcpStream| {
            let peer = stream.peer_addr().ok();
            let (connections, tls) = (connections.clone(), tls.clone());
            async move {
                let io = WatchedIo::accept(stream, &connections, tls.as_ref()).await;
                io.map(|io| (io, Protocol::Http1, peer))
                    .map_err(actix_http::error::DispatchError::Io)
            }
        });
        actix_service::ServiceFactoryExt::and_then(accept, http)
    };
    Ok(builder
        .workers(WORKERS)
        .shutdown_timeout(GRACE_SECONDS)
        .shutdown_signal(stop.cancelled_owned())
        .listen("http", listener, factory)?
        .run())
}

/// A request begins. Where its body is chunked only the reader of the body knows where it ends.
fn begin(connection: &Connection, request: &mut Request) -> Serving {
    let length = BodyLength::of(request.headers());
    if length != BodyLength::Chunked {
        return connection.serve(length);
    }
    let reader = connection.clone();
    let mut body = request.take_payload();
    let payload = poll_fn(move |context| {
        let piece = ready!(Pin::new(&mut body).poll_next(context));
        if piece.is_none() {
            reader.end_body();
        }
        Poll::Ready(piece)
    });
    *request.payload() = Payload::Stream {
        payload: Box::pin(payload),
    };
    connection.serve(length)
}

/// The body of an answer. The request is being served until it is dropped.
struct Served {
    body: BoxBody,
    _until_sent: Option<Serving>,
}

impl MessageBody for Served {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(context)
    }
}
