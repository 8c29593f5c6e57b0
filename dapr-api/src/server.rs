//! The port: connections over HTTP/1.1 and HTTP/2 without TLS, how many there are, and how long a peer
//! may keep one of them waiting.
//!
//! A peer that sends no request loses its connection, and so does one that does not answer a ping: a
//! subscription whose reader has gone without a word ends. Beyond the bound new connections are closed
//! at once. Nothing here knows a route.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use service::runtime::log_rate::LogRate;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt as _, util::MapRequestLayer};

use crate::access::Peer;

/// Most open connections.
const MAX_CONNECTIONS: usize = 1_024;
/// Most calls of one connection at the same time.
const MAX_CALLS: u32 = 256;
/// How long a peer may take for the head of its first request, and of each one over HTTP/1.1.
const HEAD: Duration = Duration::from_secs(10);
/// A silent connection is asked for a sign of life at this interval,
const PING: Duration = Duration::from_secs(20);
/// and closed when none comes in this time.
const PONG: Duration = Duration::from_secs(20);
/// Most bytes of the head of a request.
const MAX_HEAD: usize = 64 << 10;
/// Bytes of one answer that wait for their reader, besides one message.
const SEND_BUFFER: usize = 64 << 10;
/// How long connections may take to end after the stop.
const GRACE: Duration = Duration::from_secs(2);

/// Serves the routes until `stop` is cancelled.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    routes: Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    listener
        .set_nonblocking(true)
        .context("cannot serve the Dapr API")?;
    let listener = TcpListener::from_std(listener).context("cannot serve the Dapr API")?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                static LINES: LogRate = LogRate::new();
                if let Some(left_out) = LINES.due() {
                    tracing::warn!("the Dapr API cannot accept a connection: {error}{left_out}");
                }
                // The process may have no file descriptor left; one becomes free.
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            static LINES: LogRate = LogRate::new();
            if let Some(left_out) = LINES.due() {
                tracing::warn!(
                    "the Dapr API closed a new connection: {MAX_CONNECTIONS} are open{left_out}"
                );
            }
            continue;
        };
        connections.spawn(connection(
            stream,
            Peer(peer),
            routes.clone(),
            place,
            stop.clone(),
        ));
    }
    let all = async { while connections.join_next().await.is_some() {} };
    // What is left is dropped with the set.
    drop(timeout(GRACE, all).await);
    Ok(())
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    routes: Router,
    _place: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    // Small messages go out at once.
    drop(stream.set_nodelay(true));
    let begun = CancellationToken::new();
    let service = {
        let begun = begun.clone();
        let layer = MapRequestLayer::new(move |mut request: http::Request<_>| {
            begun.cancel();
            request.extensions_mut().insert(peer);
            request
        });
        let service = tower::Layer::layer(&layer, routes);
        TowerToHyperService::new(service.map_request(
            |request: http::Request<hyper::body::Incoming>| request.map(axum::body::Body::new),
        ))
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = late(&begun) => return,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(peer = %peer.0, "a connection of the Dapr API has ended: {error}");
    }
}

/// Resolves when no request has come in time.
async fn late(begun: &CancellationToken) {
    if timeout(HEAD, begun.cancelled()).await.is_ok() {
        std::future::pending().await
    }
}
