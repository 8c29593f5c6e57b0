//! HEAD is GET, and the server leaves the body out; a method that a path does not have is refused
//! with a problem.

use actix_web::{
    Error, ResponseError,
    body::{BodySize, BodyStream, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, StatusCode, header::ALLOW},
    middleware::Next,
    web::Bytes,
};
use contract::Problem;
use futures_util::stream;

use crate::error::ApiError;

/// Goes around all routes.
pub(super) async fn answer(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let head = request.method() == Method::HEAD;
    if head {
        request.head_mut().method = Method::GET;
    }
    let answer = next.call(request).await?;
    if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allow = answer
            .headers()
            .get(ALLOW)
            .and_then(|allow| allow.to_str().ok())
            .unwrap_or_default();
        let allow = allow.replace("GET", "GET, HEAD");
        let problem = Problem::new(
            contract::ProblemKind::MethodNotAllowed,
            format!("Send one of {allow}"),
        );
        let mut answer = answer.into_response(ApiError::from(problem).error_response());
        answer.headers_mut().insert(ALLOW, allow.parse()?);
        return Ok(answer);
    }
    // The server would read a stream to its end to leave it out.
    Ok(answer.map_body(|_head, body| match body.size() {
        BodySize::Stream if head => {
            BodyStream::new(stream::empty::<Result<Bytes, Error>>()).boxed()
        }
        _ => body,
    }))
}
