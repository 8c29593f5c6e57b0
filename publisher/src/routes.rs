//! The HTTP API: read the request, call the writer or the store, answer. No rule of the domain lives here.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderName},
    web::{self, ServiceConfig},
};
use contract::{CollectionName, DocumentId};

use crate::{
    error::ApiError,
    store::{Store, Terms},
    writer::Writer,
};

mod collections;
mod documents;
mod feed;
mod health;
mod stream;

/// What a request can reach.
pub struct Api {
    /// To read.
    pub store: Store,
    /// To write.
    pub writer: Writer,
    /// Collections and rules.
    pub terms: std::sync::Arc<Terms>,
}

/// Bytes of a request body that are read at all: a document in any spelling, with room for white space and escapes.
const BODY_LIMIT: usize = 8 << 20;

/// Puts all routes in place.
pub fn configure(config: &mut ServiceConfig) {
    config
        .app_data(web::PayloadConfig::new(BODY_LIMIT))
        .route("/v1/collections", web::get().to(collections::heads))
        .route("/v1/collections/{collection}", web::get().to(collections::head))
        .route("/v1/snapshot", web::get().to(collections::snapshot))
        .route("/v1/changes", web::get().to(feed::all))
        .route("/v1/collections/{collection}/changes", web::get().to(feed::one))
        .service(
            web::resource("/v1/collections/{collection}/documents").get(collections::documents).post(documents::create),
        )
        .service(
            web::resource("/v1/collections/{collection}/documents/{id}")
                .get(documents::get)
                .put(documents::put)
                .patch(documents::patch)
                .delete(documents::delete),
        )
        .route("/healthz", web::get().to(health::healthz))
        .route("/readyz", web::get().to(health::readyz))
        .default_service(web::to(no_such_route));
}

async fn no_such_route(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let detail = format!("{} {} is not part of the API", request.method(), request.path());
    Err(contract::Problem::new(404, "no-such-route", "No such route", detail).into())
}

impl Api {
    /// A collection that is served here.
    fn collection(&self, text: &str) -> Result<CollectionName, ApiError> {
        let name: CollectionName = text.parse().map_err(|_malformed| ApiError::unknown_collection(text))?;
        if self.terms.collections.contains(&name) { Ok(name) } else { Err(ApiError::unknown_collection(text)) }
    }

    fn place(&self, (collection, id): &(String, String)) -> Result<(CollectionName, DocumentId), ApiError> {
        Ok((self.collection(collection)?, id.parse().map_err(|error| ApiError::bad_field("id", error))?))
    }
}

fn header_text(request: &HttpRequest, name: impl AsRef<str>) -> Result<Option<&str>, ApiError> {
    let name = name.as_ref();
    let value = request.headers().get(name).map(|value| value.to_str());
    value.transpose().map_err(|_not_ascii| ApiError::bad_field(name, "expected visible ASCII"))
}

/// Whether `If-None-Match` names this entity tag: the client has it already (RFC 9110 section 13.1.2).
fn has_already(request: &HttpRequest, etag: &str) -> Result<bool, ApiError> {
    let tags = header_text(request, header::IF_NONE_MATCH)?;
    Ok(tags.is_some_and(|tags| {
        tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*")
    }))
}

/// A failure to read the store: logged here, answered 503.
fn store_failed(error: anyhow::Error) -> ApiError {
    tracing::warn!("a read was answered 503: {error:#}");
    ApiError::store_unavailable()
}

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
