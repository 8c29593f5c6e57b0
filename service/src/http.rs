//! The HTTP surface that both services share.
//!
//! | module | content |
//! |---|---|
//! | [`routes`] | one table of routes, for the router and for the OpenAPI document |
//! | [`guard`] | refuses requests of foreign web pages, and host names that are not known; CORS |
//! | [`access`] | finds out who the caller is |
//! | [`caller`], [`refusals`] | what a handler asks of the caller; counts of refusals |
//! | [`framing`] | answers to HEAD, and to HTTP/1.0 clients |
//! | [`methods`] | HEAD as GET, 405 with `Allow`, 404 `no-such-route` |
//! | [`problem`] | error answers: RFC 9457 problems |
//! | [`accept`] | which media type a client prefers |
//! | [`etag`] | entity tags and conditional reads: 304 |
//! | [`freshness`] | reads that ask for a revision |
//! | [`bodies`] | bodies of requests: limits in bytes, in time, and of all together |
//! | [`server`], [`connections`] | the server, its sockets, and how slow a peer may be |
//! | [`tls`] | settings of TLS |
//! | [`feed`] | the change feed as pages and as a live stream |
//! | [`frames`] | lists and snapshots, document by document |
//! | [`stream_slots`], [`snapshot_slots`] | limits for streams and snapshots |
//! | [`limits`], [`rate`], [`source`] | limits as settings; how often one caller may send requests |
//! | [`health`], [`histograms`] | `/healthz`, `/openapi.json`, `/metrics` |
//! | [`trace`] | the span of a request |
//! | [`openapi`] | OpenAPI 3.1 documents |
//!
//! Nothing in this module reads configuration: handlers of the services do, and hand it over.

use actix_web::HttpRequest;

use problem::ProblemError;

pub mod accept;
pub mod access;
pub mod bodies;
pub mod caller;
pub mod connections;
pub mod etag;
pub mod feed;
pub mod frames;
pub mod framing;
pub mod freshness;
pub mod guard;
pub mod health;
pub mod histograms;
pub mod limits;
pub mod methods;
pub mod openapi;
pub mod problem;
pub mod rate;
pub mod refusals;
pub mod routes;
mod rules;
pub mod server;
pub mod shared_text;
pub mod snapshot_slots;
pub mod source;
pub mod stream_slots;
pub mod tls;
pub mod trace;

pub use contract::document::JSON;

/// A header of a request; `None` when the request does not have it. Several lines of one header are
/// one list (RFC 9110 section 5.3).
///
/// # Errors
/// 400 `bad-request` when the header is not visible ASCII.
pub fn header_text(
    request: &HttpRequest,
    name: impl AsRef<str>,
) -> Result<Option<String>, ProblemError> {
    let name = name.as_ref();
    let lines: Result<Vec<_>, _> = request
        .headers()
        .get_all(name)
        .map(|line| line.to_str())
        .collect();
    let lines =
        lines.map_err(|_not_ascii| ProblemError::bad_request(name, "expected visible ASCII"))?;
    Ok((!lines.is_empty()).then(|| lines.join(", ")))
}
