//! Bodies of requests: bounded in bytes and in time, so that no client holds a connection by saying nothing.
//!
//! What a body means is not asked here.

use std::time::Duration;

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web::Bytes};
use contract::CanonicalJson;
use futures_util::future::{FutureExt, LocalBoxFuture};
use tokio::time::timeout;

use super::{BODY_LIMIT, header_text};
use crate::error::ApiError;

/// Media type of most bodies.
pub(super) const JSON: &str = "application/json";

/// How long a body may take to arrive, all of it.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The whole body of a request.
pub(super) struct Body(Bytes);

impl FromRequest for Body {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let reading = timeout(BODY_TIME, Bytes::from_request(request, payload));
        async move {
            match reading.await {
                Ok(Ok(body)) => Ok(Self(body)),
                Ok(Err(error)) if error.as_response_error().status_code().as_u16() == 413 => {
                    Err(ApiError::too_large(BODY_LIMIT))
                }
                Ok(Err(error)) => Err(ApiError::bad_field("body", error)),
                Err(_elapsed) => Err(ApiError::body_late(BODY_TIME)),
            }
        }
        .boxed_local()
    }
}

impl Body {
    /// The body, if it is of the media type or says nothing of it.
    pub(super) fn of_type(&self, request: &HttpRequest, media_type: &str) -> Result<&[u8], ApiError> {
        let given = header_text(request, header::CONTENT_TYPE)?;
        let given = given.as_deref().and_then(|given| given.split(';').next()).map(str::trim);
        // curl names this one for every body, and nobody means it.
        let unsaid = |given: &str| given.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        if given.is_some_and(|given| !given.eq_ignore_ascii_case(media_type) && !unsaid(given)) {
            return Err(ApiError::media_type(media_type));
        }
        Ok(&self.0)
    }

    /// The body as the one value that it is.
    pub(super) fn canonical(&self, request: &HttpRequest, media_type: &str) -> Result<CanonicalJson, ApiError> {
        CanonicalJson::parse(self.of_type(request, media_type)?).map_err(ApiError::bad_body)
    }
}
