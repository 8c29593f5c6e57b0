//! The OpenAPI document of the subscriber.
//!
//! Paths and operations come from the table of routes (`super::table`). `e2e` tries the document
//! with generated requests against a running subscriber. Nothing here decides an answer.

use std::sync::LazyLock;

use actix_web::web::Bytes;
use contract::ProblemKind;
use serde_json::Value;
use service::http::{
    openapi::{ApiDocument, ApiHeader, ApiOperation},
    routes,
};

use super::table;

pub(super) mod dapr;
pub(super) mod reads;
pub(super) mod upkeep;

/// Headers of every read: the revision of the data, and how far it may be trusted.
const READ_HEADERS: [ApiHeader; 2] = [
    ApiHeader {
        name: "Confcast-Revision",
        description: "`<epoch>-<revision>` of the collection, or the epoch where several are concerned; `unversioned` without one",
        pattern: "^([0-9a-f]{8}-[0-9]+(-[0-9]+)?|unversioned)$",
    },
    ApiHeader {
        name: "Confcast-State",
        description: "How far the answer may be trusted",
        pattern: "^(loading|behind|stale|current)$",
    },
];

const DESCRIPTION: &str = "A replica of the configuration: the reads of a publisher with the same bodies, from memory, what it \
    says of itself, and what its sidecar calls.\n\nRefusals are `application/problem+json` (RFC 9457) with a stable `type`; \
    the answers below name the kinds. Every path answers HEAD where it answers GET, and any other method with 405 \
    `method-not-allowed` and `Allow`; every other path answers 404 `no-such-route`. Bodies are not looked at but those of \
    events. What is no HTTP request is answered 400 `bad-request`, a head that is late 408 `head-late`, one above \
    128 KiB 431 `head-too-large`; then the connection is closed.";

/// The document as JSON text.
pub fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| whole().to_string().into());
    DOCUMENT.clone()
}

fn whole() -> Value {
    let document = ApiDocument::new("Confcast subscriber", DESCRIPTION, "http://127.0.0.1:8081");
    routes::describe(dapr::add_token(document), &table()).finish()
}

/// An operation that needs the first load.
fn operation(id: &str, summary: &str) -> ApiOperation {
    ApiOperation::new(id, summary).problems(&[ProblemKind::Loading])
}

#[cfg(test)]
mod tests;
