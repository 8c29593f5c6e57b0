//! Methods and paths that a service does not have, and HEAD.
//!
//! HEAD is answered like GET, without the body. A method that a path does not have is answered 405
//! with `Allow`, a path that does not exist 404; both with a problem. No route is defined here.

use actix_web::{
    Error, HttpRequest, HttpResponse, ResponseError,
    body::{BodySize, BodyStream, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, StatusCode, header::ALLOW},
    middleware::Next,
    web::Bytes,
};
use contract::{Problem, ProblemKind};
use futures_util::stream;

use super::problem::{ProblemError, respond};

/// Middleware around all routes of a service.
///
/// # Errors
/// As the inner services.
pub async fn answer_methods(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    // The handlers know GET only; the server leaves out the body of the answer to HEAD.
    let head = request.method() == Method::HEAD;
    if head {
        request.head_mut().method = Method::GET;
    }
    let answer = next.call(request).await?;
    if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
        // actix-web lists the methods of the path in the answer.
        let allow = answer
            .headers()
            .get(ALLOW)
            .and_then(|allow| allow.to_str().ok());
        let allow = allow.unwrap_or_default().replace("GET", "GET, HEAD");
        let refusal = method_not_allowed(&allow);
        return Ok(answer.into_response(refusal));
    }
    // The server leaves out the body of an answer to HEAD. It would read a stream to its end to do
    // so, and a live stream has no end.
    Ok(answer.map_body(|_head, body| match body.size() {
        BodySize::Stream if head => {
            BodyStream::new(stream::empty::<Result<Bytes, Error>>()).boxed()
        }
        _ => body,
    }))
}

fn method_not_allowed(allow: &str) -> HttpResponse {
    let problem = Problem::new(
        ProblemKind::MethodNotAllowed,
        format!("Send one of {allow}"),
    );
    let mut answer = HttpResponse::Ok();
    answer.insert_header((ALLOW, allow));
    respond(answer, &problem)
}

/// Default service: the answer for a path that does not exist.
pub async fn no_such_route(request: HttpRequest) -> HttpResponse {
    let detail = format!(
        "{} {} is not part of the API",
        request.method(),
        request.path()
    );
    ProblemError::from(Problem::new(ProblemKind::NoSuchRoute, detail)).error_response()
}
