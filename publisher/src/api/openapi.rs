//! The OpenAPI document of the publisher.
//!
//! Paths and operations come from the table of routes ([`super::table`]). `e2e` tries the document
//! with generated requests against a running publisher. Nothing here decides an answer.

use std::sync::LazyLock;

use actix_web::web::Bytes;
use contract::ProblemKind;
use serde_json::Value;
use service::http::{
    openapi::{ApiDocument, ApiOperation},
    routes,
};

use crate::api::table;

pub(super) mod audit;
pub(super) mod letters;
pub(super) mod past;
pub(super) mod reads;
pub(super) mod tokens;
pub(super) mod upkeep;
pub(super) mod writes;

const DESCRIPTION: &str = "Configuration in collections of JSON documents: reads, conditional writes, the change feed, and the \
    fleet of replicas.\n\nRefusals are `application/problem+json` (RFC 9457) with a stable `type`; the answers below name the \
    kinds. Every path answers HEAD where it answers GET, and any other method with 405 `method-not-allowed` and `Allow`; every \
    other path answers 404 `no-such-route`. What is no HTTP request is answered 400 \
    `bad-request`, a head that is late 408 `head-late`, one above 128 KiB 431 `head-too-large`; then the connection is closed.";

/// The document as JSON text.
pub fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| whole().to_string().into());
    DOCUMENT.clone()
}

fn whole() -> Value {
    routes::describe(
        letters::add_token(ApiDocument::new(
            "Confcast publisher",
            DESCRIPTION,
            "http://127.0.0.1:8080",
        )),
        &table(),
    )
    .finish()
}

/// The same operation, which reads the store.
fn reading(operation: ApiOperation) -> ApiOperation {
    operation.problems(&[ProblemKind::StoreUnavailable])
}

#[cfg(test)]
mod tests;
