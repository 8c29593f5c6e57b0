//! Bodies of requests: bounded in bytes and in time, so that no client holds a connection by saying
//! nothing.
//!
//! What a body means is not asked here.

use std::time::Duration;

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    body::{BoxBody, MessageBody, SizedStream},
    dev::{Payload, ServiceRequest},
    http::header,
    web::{Bytes, BytesMut},
};
use contract::CanonicalJson;
use futures_util::{
    future::{FutureExt, LocalBoxFuture},
    stream::{StreamExt, once},
};
use serde::Deserialize;
use tokio::time::timeout;

use crate::api::{BODY_LIMIT, error::ApiError, header_text};

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
    pub(super) fn of_type(
        &self,
        request: &HttpRequest,
        media_type: &str,
    ) -> Result<&[u8], ApiError> {
        let given = header_text(request, header::CONTENT_TYPE)?;
        let given = given
            .as_deref()
            .and_then(|given| given.split(';').next())
            .map(str::trim);
        // curl names this one for every body, and nobody means it.
        let unsaid = |given: &str| given.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        if given.is_some_and(|given| !given.eq_ignore_ascii_case(media_type) && !unsaid(given)) {
            return Err(ApiError::media_type(media_type));
        }
        Ok(&self.0)
    }

    /// The body as the one value that it is.
    pub(super) fn canonical(
        &self,
        request: &HttpRequest,
        media_type: &str,
    ) -> Result<CanonicalJson, ApiError> {
        CanonicalJson::parse(self.of_type(request, media_type)?).map_err(ApiError::bad_body)
    }
}

/// Reads an object. A type with members would take an array for them as well, in their order.
pub(crate) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    if json
        .trim_ascii_start()
        .first()
        .is_some_and(|first| *first != b'{')
    {
        return Err(serde::de::Error::custom("expected an object"));
    }
    serde_json::from_slice(json)
}

/// Reads a body that comes in chunks before anything else happens. The server would wait for the
/// rest of one that nobody reads, for as long as it takes; of a body of known length it lets go by
/// itself.
pub(super) async fn gather_chunks(request: &mut ServiceRequest) -> Result<(), (ApiError, Payload)> {
    if !request.headers().contains_key(header::TRANSFER_ENCODING) {
        return Ok(());
    }
    let mut payload = request.take_payload();
    let mut body = BytesMut::new();
    let reading = async {
        while let Some(chunk) = payload.next().await {
            body.extend_from_slice(&chunk.map_err(|error| ApiError::bad_field("body", error))?);
            if body.len() > BODY_LIMIT {
                return Err(ApiError::too_large(BODY_LIMIT));
            }
        }
        Ok(())
    };
    match timeout(BODY_TIME, reading).await {
        Ok(Ok(())) => {
            request.set_payload(Payload::from(body.freeze()));
            Ok(())
        }
        Ok(Err(refused)) => Err((refused, payload)),
        Err(_elapsed) => Err((ApiError::body_late(BODY_TIME), payload)),
    }
}

/// An answer that keeps what is left of its request until it is sent: then the server closes the
/// connection.
pub(super) fn holding(answer: BoxBody, payload: Payload) -> BoxBody {
    let bytes = answer.try_into_bytes().unwrap_or_default();
    let length = bytes.len() as u64;
    let whole = once(async move { Ok::<_, actix_web::Error>(bytes) });
    let held = Box::pin(whole.map(move |chunk| {
        let _until_sent = &payload;
        chunk
    }));
    SizedStream::new(length, held).boxed()
}

#[cfg(test)]
mod tests {
    use contract::fleet::RestoreEpochRequest;

    use super::*;

    #[test]
    fn an_object_is_no_array() {
        assert_eq!(
            object::<RestoreEpochRequest>(b" {\"adopt\": true}").expect("an object"),
            RestoreEpochRequest { adopt: true }
        );
        for wrong in ["[]", "[true]", "{\"adpot\": true}", "true", ""] {
            object::<RestoreEpochRequest>(wrong.as_bytes()).expect_err(wrong);
        }
    }
}
