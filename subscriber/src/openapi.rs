//! The OpenAPI document of the subscriber: every path, and every answer it gives.
//!
//! It says what [`crate::routes`] do and decides nothing; a test asks each for what the other has,
//! and `e2e` tries it with generated requests against a running subscriber.

use std::sync::LazyLock;

use actix_web::web::Bytes;
use contract::{CollectionName, Problem};
use serde_json::{Value, json};
use service::openapi::{ApiAnswer, ApiDocument, ApiHeader, ApiOperation, ApiSchema, problem};

mod dapr;
mod reads;
mod upkeep;

/// What every read says of where its data stands, and how far it may be trusted.
const STANDING: [ApiHeader; 2] = [
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
/// Entity tag.
const ETAG: ApiHeader = ApiHeader {
    name: "ETag",
    description: "Changes whenever the body does; strong",
    pattern: r#"^"[!#-~]+"$"#,
};
/// By what requests for the same path are told apart.
const VARY: ApiHeader = ApiHeader {
    name: "Vary",
    description: "The form depends on `Accept`",
    pattern: "^Accept$",
};
/// When to come back.
const RETRY_AFTER: ApiHeader = ApiHeader {
    name: "Retry-After",
    description: "Seconds after which trying again may help",
    pattern: "^[0-9]+$",
};

const DESCRIPTION: &str = "A replica of the configuration: the reads of a publisher with the same bodies, from memory, what it \
    says of itself, and what its sidecar calls.\n\nRefusals are `application/problem+json` (RFC 9457) with a stable `type`; \
    the answers below name the kinds. Every path answers HEAD where it answers GET, and any other method with 405 \
    `method-not-allowed` and `Allow`; every other path answers 404 `no-such-route`. Bodies are not looked at but those of \
    events. What is no HTTP request, or has more than 128 KiB of headers, is no problem: the web server refuses it and closes \
    the connection.";

/// The document, as it is sent.
pub fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| whole().to_string().into());
    DOCUMENT.clone()
}

fn whole() -> Value {
    let document = ApiDocument::new("Confcast subscriber", DESCRIPTION, refusal);
    dapr::add(upkeep::add(reads::add(document))).finish()
}

/// A refusal. What may be tried again says when.
fn refusal(status: u16, kinds: &[&str]) -> ApiAnswer {
    let answer = problem::<Problem>(status, kinds);
    if status == 503 {
        answer.with(&[RETRY_AFTER])
    } else {
        answer
    }
}

/// It is answered from what was loaded.
fn operation(id: &str, summary: &str) -> ApiOperation {
    ApiOperation::new(id, summary).problem(503, &["loading"])
}

/// The operation of a collection.
fn of_collection(id: &str, summary: &str) -> ApiOperation {
    let operation = operation(id, summary).problem(404, &["unknown-collection"]);
    operation.path(
        "collection",
        "Name of the collection",
        ApiSchema::of::<CollectionName>(),
    )
}

/// It is answered 304 when the caller has it already.
fn cached(operation: ApiOperation, headers: &[ApiHeader]) -> ApiOperation {
    let tags = ApiSchema::from(json!({"type": "string"}));
    let operation = operation.header(
        "If-None-Match",
        "Entity tags that the caller has, or `*`",
        tags,
    );
    operation.answer(
        ApiAnswer::empty(304, "The caller has it already")
            .with(headers)
            .with(&STANDING),
    )
}

#[cfg(test)]
mod tests;
