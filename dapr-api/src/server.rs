//! The port: connections over HTTP/1.1 and HTTP/2 without TLS, how many there are, and how long a peer
//! may keep one of them waiting.
//!
//! A peer that sends no request loses its connection, also later and whatever else it sends, and so does
//! one that does not answer a ping: a subscription whose reader has gone without a word ends. Beyond the
//! bounds ([`crate::connections`]) connections are closed at once. Nothing here knows a route.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use anyhow::Context;
use axum::{Router, body::Body};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use service::{
    http::{connections::ConnectionLimits, source::network},
    runtime::log_rate::LogRate,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use crate::{
    access::Peer,
    connections::{Call, Connection, Place, Places},
};

/// Most open connections, where the settings do not ask for fewer.
const MAX_CONNECTIONS: usize = 1_024;
/// Most calls of one connection at the same time.
const MAX_CALLS: u32 = 256;
/// A silent connection gets a ping at this interval,
const PING: Duration = Duration::from_secs(20);
/// and is closed when no answer comes in this time.
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
    limits: ConnectionLimits,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    listener
        .set_nonblocking(true)
        .context("cannot serve the Dapr API")?;
    let listener = TcpListener::from_std(listener).context("cannot serve the Dapr API")?;
    let max = limits.max.min(MAX_CONNECTIONS);
    let places = Places::new(max, limits.per_address);
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
        let Some(place) = places.enter(network(peer.ip())) else {
            static LINES: LogRate = LogRate::new();
            if let Some(left_out) = LINES.due() {
                tracing::warn!(
                    %peer,
                    "the Dapr API closed a new connection of {peer}: {max} are open, or as many of its \
                     address as one may have (AURA_CONFIGURATION_LIMIT_CONNECTIONS_PER_ADDRESS){left_out}"
                );
            }
            continue;
        };
        let serving = connection(
            stream,
            Peer(peer),
            routes.clone(),
            place,
            limits,
            stop.clone(),
        );
        connections.spawn(serving);
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
    place: Place,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    // Small messages go out at once.
    drop(stream.set_nodelay(true));
    let connection = place.connection.clone();
    let Connection { closed, calls } = connection.clone();
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let call = connection.begin_call();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(connection.clone());
        let mut routes = routes.clone();
        async move {
            let answer = tower::Service::call(&mut routes, request).await;
            answer.map(|answer| answer.map(|body| Answered { body, _call: call }))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It includes the time before a head begins; the first one has less (`idle`).
        .header_read_timeout(limits.idle)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = closed.cancelled() => return,
        () = idle(calls.subscribe(), &limits) => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                result = serving => result,
                // A peer that does not take the end has no more time, but for a call that began meanwhile.
                () = idle_after(GRACE, calls.subscribe()) => return,
            }
        }
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(peer = %peer.0, "a connection of the Dapr API has ended: {error}");
    }
}

/// Resolves when the peer has made no call for too long: none at all, or none since the last one ended.
async fn idle(mut calls: watch::Receiver<usize>, limits: &ConnectionLimits) {
    let mut limit = limits.head;
    loop {
        let is_idle = *calls.borrow_and_update() == 0;
        let limit_now = if is_idle { limit } else { Duration::MAX };
        if timeout(limit_now, calls.changed()).await.is_err() {
            return;
        }
        limit = limits.idle;
    }
}

/// Resolves when no call is under way, after this time at the earliest.
async fn idle_after(time: Duration, mut calls: watch::Receiver<usize>) {
    sleep(time).await;
    // An error says that nothing counts calls any more.
    drop(calls.wait_for(|calls| *calls == 0).await);
}

/// The body of an answer: the call is under way until its end.
struct Answered {
    body: Body,
    _call: Call,
}

impl hyper::body::Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
