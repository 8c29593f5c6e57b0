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
    web::Data,
};
use contract::{Problem, ProblemKind};

use super::{
    caller::is_known,
    problem::{ProblemError, respond},
};

/// Which service of the two this is, as application data: what it does not answer, the other one
/// may. Without it the answers name no service.
#[derive(Debug, Clone)]
pub struct Role {
    /// `publisher` or `subscriber`.
    pub service: &'static str,
    /// Where the requests that it does not answer belong, as a sentence; it holds no secret. Only a
    /// caller that is known is told.
    pub elsewhere: Option<String>,
}

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
        let refusal = method_not_allowed(&allow, answer.request());
        return Ok(answer.into_response(refusal));
    }
    Ok(answer)
}

/// A method that the API could have. Any other one is a text of the peer, of any length.
pub fn known_method(method: &Method) -> Option<&str> {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    KNOWN.contains(method).then(|| method.as_str())
}

fn method_not_allowed(allow: &str, request: &HttpRequest) -> HttpResponse {
    let detail = with_elsewhere(format!("Send one of {allow}"), request);
    let problem = Problem::new(ProblemKind::MethodNotAllowed, detail);
    let mut answer = HttpResponse::Ok();
    answer.insert_header((ALLOW, allow));
    respond(answer, &problem)
}

/// Default service: the answer for a path that does not exist.
pub async fn no_such_route(request: HttpRequest) -> HttpResponse {
    let (method, path) = (request.method(), request.path());
    let service = role(&request);
    let service = service.map_or_else(String::new, |role| format!(" of a {}", role.service));
    let detail = format!("{method} {path} is not part of the API{service}");
    let detail = with_elsewhere(detail, &request);
    ProblemError::from(Problem::new(ProblemKind::NoSuchRoute, detail)).error_response()
}

fn role(request: &HttpRequest) -> Option<&Role> {
    request.app_data::<Data<Role>>().map(|role| &***role)
}

fn with_elsewhere(detail: String, request: &HttpRequest) -> String {
    // The routes of a sidecar and of an orchestrator are reached without a credential.
    let role = role(request).filter(|_role| is_known(request));
    match role.and_then(|role| role.elsewhere.as_ref()) {
        Some(elsewhere) => format!("{detail}. {elsewhere}"),
        None => detail,
    }
}
