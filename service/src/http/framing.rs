//! How answers are framed on a connection: what HTTP/1.0 clients and HEAD need. The content of
//! answers is not looked at.

use std::convert::Infallible;

use actix_web::{
    Error,
    body::{BodySize, BodyStream, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{ConnectionType, Method, Version, header::CONTENT_LENGTH},
    middleware::Next,
    web::Bytes,
};
use futures_util::stream;

/// Middleware outside of everything that answers.
///
/// # Errors
/// As the inner services.
pub async fn frame_answers(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let head = request.method() == Method::HEAD;
    let old = request.version() < Version::HTTP_11;
    let mut answer = next.call(request).await?;
    let size = answer.response().body().size();
    if head {
        // The length that GET would have (RFC 9110 section 8.6), if it is known.
        return Ok(match size {
            BodySize::None => answer,
            BodySize::Sized(length) => {
                let headers = answer.headers_mut();
                headers.insert(CONTENT_LENGTH, length.into());
                without_body(answer)
            }
            BodySize::Stream => without_body(answer),
        });
    }
    if old && size == BodySize::Stream {
        // HTTP/1.0 has no chunks: the end of the connection ends the body (RFC 9112 section 6.3).
        let parts = answer.response_mut().head_mut();
        parts.no_chunking(true);
        parts.set_connection_type(ConnectionType::Close);
    }
    Ok(answer)
}

/// The same answer with an empty body that adds nothing to the head. A live stream is dropped, and
/// not read to its end.
fn without_body(mut answer: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    answer.response_mut().head_mut().no_chunking(true);
    answer.map_body(|_head, _body| {
        BodyStream::new(stream::empty::<Result<Bytes, Infallible>>()).boxed()
    })
}
