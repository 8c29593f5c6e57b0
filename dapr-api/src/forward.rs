//! Everything that is not the Configuration API goes on to the sidecar, as it came: method, metadata,
//! streaming bodies and trailers, over one pool of connections for each protocol. Credentials of Confcast
//! stay here.
//!
//! Nothing of it is read or kept. A call has the deadline of its caller: when the caller ends it, it ends
//! at the sidecar. Fields that concern one connection alone are not passed on (RFC 9110 section 7.6.1).

use std::time::Duration;

use axum::{body::Body, response::Response};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper_util::{
    client::legacy::{self as client, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use service::runtime::log_rate::LogRate;

use crate::{credential::remove_credentials, error::ApiError};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection gets a ping at this interval,
const PING: Duration = Duration::from_secs(20);
/// and is closed when no answer comes in this time.
const PONG: Duration = Duration::from_secs(10);
/// Marks what was passed on: an address that leads back here is noticed.
const PASSED_ON: HeaderName = HeaderName::from_static("confcast-passed-on");
/// Fields of one connection.
const OF_CONNECTION: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// A client of HTTP/1.1, for an address of this API.
pub(crate) fn http_client() -> Client<HttpConnector, Body> {
    builder().build(connector())
}

fn builder() -> client::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new());
    builder
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_nodelay(true);
    connector
}

/// The URL of a path at an address; of `/` without a path.
pub(crate) fn target(authority: &Authority, path: Option<PathAndQuery>) -> Uri {
    let mut target = Uri::default().into_parts();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(authority.clone());
    target.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    // All three parts are there, so it is valid.
    Uri::from_parts(target).unwrap_or_default()
}

/// The sidecar that gets the other calls.
pub(crate) struct Sidecar {
    grpc: (Client<HttpConnector, Body>, Authority),
    http: (Client<HttpConnector, Body>, Authority),
}

impl Sidecar {
    /// The sidecar at these addresses. Nothing is connected yet.
    pub(crate) fn new(grpc: Authority, http: Authority) -> Self {
        let mut over_grpc = builder();
        over_grpc
            .timer(TokioTimer::new())
            .http2_only(true)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PONG)
            .http2_adaptive_window(true);
        Self {
            grpc: (over_grpc.build(connector()), grpc),
            http: (http_client(), http),
        }
    }

    /// The answer of the sidecar.
    pub(crate) async fn pass_on(&self, mut request: Request<Body>) -> Response {
        let is_grpc = is_grpc(request.headers());
        let (client, authority) = if is_grpc { &self.grpc } else { &self.http };
        if request.headers().contains_key(PASSED_ON) {
            let reason = format!(
                "{authority} is no sidecar: it leads back to this subscriber. Set DAPR_GRPC_PORT and \
                 DAPR_HTTP_PORT to the ports of the sidecar"
            );
            return ApiError::Sidecar(reason).answer(is_grpc);
        }
        remove_of_connection(request.headers_mut(), is_grpc);
        let headers = request.headers_mut();
        headers.insert(PASSED_ON, HeaderValue::from_static("1"));
        remove_credentials(headers);
        // The client writes that of the sidecar.
        headers.remove(HOST);
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = target(authority, path);
        *request.version_mut() = if is_grpc {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        match client.request(request).await {
            Ok(answer) => {
                let mut answer = answer.map(Body::new);
                remove_of_connection(answer.headers_mut(), is_grpc);
                answer
            }
            Err(error) => {
                static LINES: LogRate = LogRate::new();
                let error = format!("{:#}", anyhow::Error::from(error));
                if let Some(left_out) = LINES.due() {
                    tracing::warn!(
                        sidecar = %authority,
                        "a call could not be passed on to the sidecar at {authority}: {error}{left_out}"
                    );
                }
                let reason = format!("the sidecar at {authority} cannot be reached: {error}");
                ApiError::Sidecar(reason).answer(is_grpc)
            }
        }
    }
}

/// Whether a request is a call of gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let given = headers.get(CONTENT_TYPE);
    given.is_some_and(|given| given.as_bytes().starts_with(b"application/grpc"))
}

fn remove_of_connection(headers: &mut HeaderMap, is_grpc: bool) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in OF_CONNECTION.iter().chain(&listed) {
        headers.remove(name);
    }
    // gRPC asks for trailers with it.
    if !is_grpc {
        headers.remove(TE);
    }
}
