//! Bodies of requests: what media type and which JSON they are. [`service::http::bodies`] receives
//! them, within its limits. Nothing here knows what a body means.

use actix_web::{FromRequest, HttpRequest, dev::Payload, web::Bytes};
use contract::CanonicalJson;
use service::http::bodies;
use tokio::time::Instant;

use crate::api::{Api, error::ApiError};

/// The whole body of a request.
pub(super) struct Body(Bytes);

impl FromRequest for Body {
    type Error = actix_web::Error;
    type Future = std::future::Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = bodies::Body::from_request(request, payload).into_inner();
        std::future::ready(body.map(|bodies::Body(body)| Self(body)))
    }
}

impl Body {
    /// The bytes. Cloning them is cheap.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The body as a canonical JSON value.
    pub(super) async fn canonical(&self, api: &Api) -> Result<CanonicalJson, ApiError> {
        let json = self.0.clone();
        api.writer
            .large_work()
            .run(Instant::now(), json.len(), move || {
                CanonicalJson::parse(&json)
            })
            .await?
            .map_err(ApiError::bad_body)
    }
}
