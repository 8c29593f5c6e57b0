//! The HTTP API: read the request, call the writer or the store, answer. No rule of the domain
//! lives here.

use actix_web::{
    Error, HttpRequest, HttpResponse, ResponseError,
    body::{BodySize, BodyStream, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    web::{self, Bytes, ServiceConfig},
};
use contract::{CollectionName, DocumentId};
use futures_util::stream::empty;
use service::streams::StreamSlots;

use crate::{
    api::{error::ApiError, feed_watch::Feed, snapshot_slots::Loads},
    metrics::Metrics,
    store::{PublisherPolicy, Store},
    write::queue::Writer,
};

pub(crate) mod body;
mod collections;
pub(crate) mod documents;
pub mod error;
mod feed;
pub mod feed_watch;
mod fleet;
mod health;
pub mod openapi;
mod origin;
pub(crate) mod schemas;
mod sets;
pub mod snapshot_slots;
mod stream;

/// What a request can reach.
pub struct Api {
    /// To read.
    pub store: Store,
    /// To write.
    pub writer: Writer,
    /// Collections and rules.
    pub terms: std::sync::Arc<PublisherPolicy>,
    /// Replicas.
    pub fleet: crate::fleet::Fleet,
    /// Places for those who load.
    pub loads: Loads,
    /// Where the log stands, for those who follow it live.
    pub feed: Feed,
    /// Places for those.
    pub streams: StreamSlots,
    /// What is counted.
    pub metrics: std::sync::Arc<Metrics>,
}

/// Bytes of a request body that are read at all: a document or a set in any spelling, with room for
/// white space and escapes.
const BODY_LIMIT: usize = 8 << 20;

/// Puts all routes in place.
pub fn configure(config: &mut ServiceConfig) {
    let routes = web::scope("")
        .wrap(middleware::from_fn(methods))
        .service(web::resource("/v1/collections").get(collections::heads))
        .service(web::resource("/v1/collections/{collection}").get(collections::head))
        .service(web::resource("/v1/snapshot").get(collections::snapshot))
        .service(
            web::resource("/v1/changes")
                .get(feed::all)
                .post(sets::commit),
        )
        .service(web::resource("/v1/collections/{collection}/changes").get(feed::one))
        .service(
            web::resource("/v1/collections/{collection}/documents")
                .get(collections::documents)
                .post(documents::create),
        )
        .service(
            web::resource("/v1/collections/{collection}/documents/{id}")
                .get(documents::get)
                .put(documents::put)
                .patch(documents::patch)
                .delete(documents::delete),
        )
        .service(web::resource("/v1/replicas").get(fleet::list))
        .service(
            web::resource("/v1/replicas/{instance}")
                .app_data(web::PayloadConfig::new(fleet::LIMIT))
                .put(fleet::check_in),
        )
        .service(
            web::resource("/v1/epoch")
                .app_data(web::PayloadConfig::new(fleet::LIMIT))
                .post(fleet::declare),
        )
        .service(web::resource("/v1/schemas").get(schemas::list))
        .service(web::resource("/v1/schemas/{collection}").get(schemas::get))
        .service(web::resource("/v1/schemas/{collection}/sample").get(schemas::sample))
        .service(web::resource("/openapi.json").get(health::openapi))
        .service(web::resource("/metrics").get(health::metrics))
        .service(web::resource("/healthz").get(health::healthz))
        .service(web::resource("/readyz").get(health::readyz));
    config
        .app_data(web::PayloadConfig::new(BODY_LIMIT))
        .app_data(
            web::QueryConfig::default()
                .error_handler(|error, _request| ApiError::unreadable(error).into()),
        )
        .app_data(
            web::PathConfig::default()
                .error_handler(|error, _request| ApiError::unreadable(error).into()),
        )
        .service(routes)
        .default_service(web::to(no_such_route));
}

/// Chunks arrive in time; HEAD is GET, and the server leaves the body out; a method that a path
/// does not have is refused with a problem.
async fn methods(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let head = request.method() == Method::HEAD;
    if head {
        request.head_mut().method = Method::GET;
    }
    let metrics = request
        .app_data::<web::Data<Api>>()
        .map(|api| api.metrics.clone());
    let writes = !request.method().is_safe() && request.path().starts_with("/v1/c");
    if let Err((late, payload)) = body::gather_chunks(&mut request).await {
        let refusal = late
            .error_response()
            .map_body(|_head, problem| body::holding(problem, payload));
        return Ok(request.into_response(refusal));
    }
    let answer = next.call(request).await?;
    if let Some(metrics) = metrics.filter(|_metrics| writes) {
        metrics.write(answer.status().as_u16());
    }
    if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allow = answer
            .headers()
            .get(header::ALLOW)
            .and_then(|allow| allow.to_str().ok())
            .unwrap_or_default();
        let refusal = ApiError::method(&allow.replace("GET", "GET, HEAD")).error_response();
        return Ok(answer.into_response(refusal));
    }
    // The server would read a stream to its end to leave it out.
    Ok(answer.map_body(|_head, body| match body.size() {
        BodySize::Stream if head => BodyStream::new(empty::<Result<Bytes, Error>>()).boxed(),
        _ => body,
    }))
}

async fn no_such_route(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let detail = format!(
        "{} {} is not part of the API",
        request.method(),
        request.path()
    );
    Err(contract::Problem::new(contract::ProblemKind::NoSuchRoute, detail).into())
}

impl Api {
    /// A collection that is served here.
    fn collection(&self, text: &str) -> Result<CollectionName, ApiError> {
        let name: CollectionName = text
            .parse()
            .map_err(|_malformed| ApiError::unknown_collection(text))?;
        if self.terms.collections.contains(&name) {
            Ok(name)
        } else {
            Err(ApiError::unknown_collection(text))
        }
    }

    fn place(
        &self,
        (collection, id): &(String, String),
    ) -> Result<(CollectionName, DocumentId), ApiError> {
        Ok((
            self.collection(collection)?,
            id.parse()
                .map_err(|error| ApiError::bad_field("id", error))?,
        ))
    }
}

/// A header. Several lines of it are one list (RFC 9110 section 5.3).
fn header_text(request: &HttpRequest, name: impl AsRef<str>) -> Result<Option<String>, ApiError> {
    let name = name.as_ref();
    let lines: Result<Vec<_>, _> = request
        .headers()
        .get_all(name)
        .map(|line| line.to_str())
        .collect();
    let lines = lines.map_err(|_not_ascii| ApiError::bad_field(name, "expected visible ASCII"))?;
    Ok((!lines.is_empty()).then(|| lines.join(", ")))
}

/// Whether `If-None-Match` names this entity tag: the client has it already (RFC 9110 section
/// 13.1.2).
fn has_already(request: &HttpRequest, etag: &str) -> Result<bool, ApiError> {
    let tags = header_text(request, header::IF_NONE_MATCH)?;
    Ok(tags.is_some_and(|tags| {
        tags.split(',')
            .any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*")
    }))
}

/// A failure to read the store: logged here, answered 503.
fn store_failed(error: anyhow::Error) -> ApiError {
    tracing::warn!("a read was answered 503: {error:#}");
    ApiError::store_unavailable()
}
