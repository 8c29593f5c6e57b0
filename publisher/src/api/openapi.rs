//! The OpenAPI document of the publisher: every path, and every answer it gives.
//!
//! It says what [`crate::routes`] do and decides nothing; a test asks each for what the other has,
//! and `e2e` tries it with generated requests against a running publisher.

use std::sync::LazyLock;

use actix_web::web::Bytes;
use contract::Problem;
use serde_json::{Value, json};
use service::openapi::{ApiAnswer, ApiDocument, ApiHeader, ApiOperation, ApiSchema, problem};

mod reads;
mod upkeep;
mod writes;

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

const DESCRIPTION: &str = "Configuration in collections of JSON documents: reads, conditional writes, the change feed, and the \
    fleet of replicas.\n\nRefusals are `application/problem+json` (RFC 9457) with a stable `type`; the answers below name the \
    kinds. Every path answers HEAD where it answers GET, and any other method with 405 `method-not-allowed` and `Allow`; every \
    other path answers 404 `no-such-route`. What is no HTTP request, or has more than 128 KiB of headers, is no problem: the \
    web server refuses it and closes the connection.";

/// The document, as it is sent.
pub fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| whole().to_string().into());
    DOCUMENT.clone()
}

fn whole() -> Value {
    let document = ApiDocument::new("Confcast publisher", DESCRIPTION, refusal);
    upkeep::add(writes::add(reads::add(document))).finish()
}

/// A refusal. What may be tried again says when, and a conflict what is there.
fn refusal(status: u16, kinds: &[&str]) -> ApiAnswer {
    let answer = problem::<Problem>(status, kinds);
    match status {
        503 => answer.with(&[RETRY_AFTER]),
        409 | 412 => answer.may_have(&[ETAG]),
        _ => answer,
    }
}

/// Any request may have a body that is too large, late or broken, even where none is looked at.
fn operation(id: &str, summary: &str) -> ApiOperation {
    let operation = ApiOperation::new(id, summary).problem(400, &["bad-request"]);
    operation
        .problem(408, &["body-late"])
        .problem(413, &["too-large"])
}

/// The operation of a collection.
fn of_collection(id: &str, summary: &str) -> ApiOperation {
    let operation = operation(id, summary).problem(404, &["unknown-collection"]);
    operation.path(
        "collection",
        "Name of the collection",
        ApiSchema::of::<contract::CollectionName>(),
    )
}

/// The operation of a document.
fn of_document(id: &str, summary: &str) -> ApiOperation {
    let operation = of_collection(id, summary).problem(404, &["no-data"]);
    operation.path(
        "id",
        "Id of the document",
        ApiSchema::of::<contract::DocumentId>(),
    )
}

/// It reads the store.
fn reading(operation: ApiOperation) -> ApiOperation {
    operation.problem(503, &["store-unavailable"])
}

/// It is answered 304 when the caller has it already.
fn cached(operation: ApiOperation, headers: &[ApiHeader]) -> ApiOperation {
    let tags = ApiSchema::from(json!({"type": "string"}));
    let operation = operation.header(
        "If-None-Match",
        "Entity tags that the caller has, or `*`",
        tags,
    );
    operation.answer(ApiAnswer::empty(304, "The caller has it already").with(headers))
}

/// Names of collections in a query.
fn selecting(operation: ApiOperation) -> ApiOperation {
    let names = ApiSchema::from(
        json!({"type": "string", "examples": ["ChannelConfiguration,SkillConfiguration"]}),
    );
    let operation = operation.query(
        "collections",
        "Names, separated by commas; all when it is left out",
        names,
    );
    operation.problem(404, &["unknown-collection"])
}

#[cfg(test)]
mod tests;
