//! Bodies of requests, limited in bytes and in time, so that no client holds a connection by sending
//! nothing.
//!
//! Nothing here interprets a body.

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
use service::http::{header_text, problem::ProblemError};
use tokio::time::timeout;

use crate::api::{Api, BODY_LIMIT, error::ApiError};

/// How long a whole body may take to arrive.
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
                Ok(Err(error)) => Err(ProblemError::bad_request("body", error).into()),
                Err(_elapsed) => Err(ApiError::body_late(BODY_TIME)),
            }
        }
        .boxed_local()
    }
}

impl Body {
    /// The body, if the request names this media type or none.
    pub(super) fn of_type(
        &self,
        request: &HttpRequest,
        media_type: &str,
    ) -> Result<&Bytes, ApiError> {
        let given = header_text(request, header::CONTENT_TYPE)?;
        let given = given
            .as_deref()
            .and_then(|given| given.split(';').next())
            .map(str::trim);
        // curl sends the media type of forms unless it is told otherwise, so it counts as none.
        let accepted = [media_type, "application/x-www-form-urlencoded"];
        if given.is_some_and(|given| !accepted.iter().any(|each| given.eq_ignore_ascii_case(each)))
        {
            return Err(ApiError::media_type(media_type));
        }
        Ok(&self.0)
    }

    /// The body as a canonical JSON value.
    pub(super) async fn canonical(
        &self,
        api: &Api,
        request: &HttpRequest,
        media_type: &str,
    ) -> Result<CanonicalJson, ApiError> {
        let json = self.of_type(request, media_type)?.clone();
        api.writer
            .large_work()
            .run(json.len(), move || CanonicalJson::parse(&json))
            .await?
            .map_err(ApiError::bad_body)
    }
}

/// Reads a JSON object. serde would also accept an array with the members in their order.
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

/// Receives a body that comes in chunks before a handler runs. The server would wait without a limit
/// for the rest of a body in chunks that no handler reads; a body of known length it discards itself.
///
/// # Errors
/// 408 or 413, with the rest of the body.
pub(super) async fn gather_chunks(request: &mut ServiceRequest) -> Result<(), (ApiError, Payload)> {
    if !request.headers().contains_key(header::TRANSFER_ENCODING) {
        return Ok(());
    }
    let mut payload = request.take_payload();
    let mut body = BytesMut::new();
    let reading = async {
        while let Some(chunk) = payload.next().await {
            body.extend_from_slice(
                &chunk.map_err(|error| ProblemError::bad_request("body", error))?,
            );
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

/// A body of an answer that keeps the rest of the request until it is sent; then the server closes
/// the connection.
pub(super) fn holding(answer: BoxBody, payload: Payload) -> BoxBody {
    let bytes = answer.try_into_bytes().unwrap_or_default();
    let length = bytes.len() as u64;
    let whole = once(async move { Ok::<_, actix_web::Error>(bytes) });
    let body = Box::pin(whole.map(move |chunk| {
        let _until_sent = &payload;
        chunk
    }));
    SizedStream::new(length, body).boxed()
}

#[cfg(test)]
mod tests {
    use contract::fleet::RestoreEpochRequest;

    use super::*;

    #[test]
    fn an_array_is_refused_where_an_object_is_expected() {
        assert_eq!(
            object::<RestoreEpochRequest>(b" {\"adopt\": \"1a2b3c4d\"}").expect("an object"),
            RestoreEpochRequest {
                adopt: Some("1a2b3c4d".to_owned()),
                counter: None,
            }
        );
        for wrong in ["[]", "[true]", "{\"adpot\": true}", "true", ""] {
            object::<RestoreEpochRequest>(wrong.as_bytes()).expect_err(wrong);
        }
    }
}
