//! Methods and paths that a service does not have, and HEAD.
//!
//! HEAD is answered like GET; [`super::framing`] leaves out the body. A method that a path does not have is answered 405
//! with `Allow`, a path that does not exist 404; both with a problem. No route is defined here.

use actix_web::{
    Error, HttpRequest, HttpResponse, ResponseError,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, StatusCode, header::ALLOW},
    middleware::Next,
};
use contract::{Problem, ProblemKind};

use super::problem::{ProblemError, respond};

/// Middleware around all routes of a service.
///
/// # Errors
/// As the inner services.
pub async fn answer_methods(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    // The handlers know GET only.
    if request.method() == Method::HEAD {
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
    Ok(answer)
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
