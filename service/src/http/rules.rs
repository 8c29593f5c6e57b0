//! What every request of a route must keep, derived from the description of the route: one rule for
//! all routes, before any handler.
//!
//! - The caller has the right that the row of the route names, for what the path names. A path that
//!   names no collection or document needs the right for everything: what does not exist and what a
//!   caller may not see look the same to it.
//! - A query parameter that the description does not name, or that is given twice, is refused: a
//!   misspelled one would silently widen a read or change the meaning of a write.
//! - A change has one of the media types of the route. None of them is a type that a web page may
//!   send without asking first (Fetch standard, CORS-safelisted `Content-Type`), and a missing type
//!   counts as such a type.
//! - A body with a content coding is refused (RFC 9110 section 8.4), because none is decoded.
//! - A condition that the route does not evaluate is refused and not ignored (RFC 9110 section 13), and
//!   so is a revision that the answer must show ([`super::freshness`]).
//!
//! Nothing here reads a body.

use std::{collections::BTreeSet, rc::Rc};

use actix_web::{
    Error, HttpRequest, ResponseError,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{
            ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, IF_MATCH, IF_NONE_MATCH,
        },
    },
    middleware::Next,
    web::Query,
};
use contract::{
    Problem, ProblemKind,
    access::{
        Target,
        routes::{Access, Scope},
    },
};

use super::{
    access::check_sidecar,
    caller::{Caller, is_known, is_unrestricted},
    connections::incoming::BodyLength,
    etag::condition_title,
    freshness, header_text,
    openapi::ApiOperation,
    problem::ProblemError,
};

/// The rules of one method of a path.
#[derive(Debug)]
pub(super) struct RouteRules {
    method: Method,
    access: Access,
    /// Names of the query parameters.
    query: Vec<String>,
    /// Media types of the body; empty when the method takes no body.
    media_types: Vec<String>,
    /// Names of the headers, as the description writes them.
    headers: Vec<String>,
}

impl RouteRules {
    pub(super) fn of(method: Method, access: Access, operation: &ApiOperation) -> Self {
        Self {
            method,
            access,
            query: operation.names("query"),
            media_types: operation.media_types(),
            headers: operation.names("header"),
        }
    }

    /// # Errors
    /// 403 `forbidden`, 400 `bad-request`, 412 `condition-failed`, 415 `media-type`.
    fn check(&self, request: &ServiceRequest) -> Result<(), ProblemError> {
        let path = request.match_info();
        check_access(self.access, request.request(), |name| path.get(name))?;
        self.check_query(request.query_string())?;
        self.check_freshness(request)?;
        if self.method.is_safe() {
            return Ok(());
        }
        self.check_media_type(request)?;
        self.check_coding(request)?;
        self.check_conditions(request)
    }

    fn check_query(&self, query: &str) -> Result<(), ProblemError> {
        if query.is_empty() {
            return Ok(());
        }
        let pairs = Query::<Vec<(String, String)>>::from_query(query)
            .map_err(ProblemError::unreadable)?
            .into_inner();
        let mut seen = BTreeSet::new();
        for (name, _value) in &pairs {
            if !self.query.contains(name) {
                let known = match self.query.as_slice() {
                    [] => "none".to_owned(),
                    known => known.join(", "),
                };
                let detail = format!("unknown query parameter; known here: {known}");
                return Err(ProblemError::bad_request(name, detail));
            }
            if !seen.insert(name) {
                let detail = "the query parameter is given more than once";
                return Err(ProblemError::bad_request(name, detail));
            }
        }
        Ok(())
    }

    fn check_freshness(&self, request: &ServiceRequest) -> Result<(), ProblemError> {
        if !freshness::is_asked(request.headers()) || self.evaluates(freshness::HEADER) {
            return Ok(());
        }
        let detail = "only a document, a list and the head of a collection are answered from a revision on; \
                      nothing was done";
        Err(ProblemError::bad_request(freshness::HEADER, detail))
    }

    /// Whether the description has a header.
    fn evaluates(&self, name: &str) -> bool {
        let mut known = self.headers.iter();
        known.any(|known| known.eq_ignore_ascii_case(name))
    }

    fn check_media_type(&self, request: &ServiceRequest) -> Result<(), ProblemError> {
        // A POST without a body changes state as well, and needs no consent of the user.
        let must_have_one = self.method == Method::POST
            || BodyLength::of(request.headers()) != BodyLength::Known(0);
        if self.media_types.is_empty() || !must_have_one {
            return Ok(());
        }
        let given = header_text(request.request(), CONTENT_TYPE)?.unwrap_or_default();
        let essence = given.split(';').next().unwrap_or_default().trim();
        if self
            .media_types
            .iter()
            .any(|known| known.eq_ignore_ascii_case(essence))
        {
            return Ok(());
        }
        let expected = self.media_types.join(" or ");
        let detail = format!("Send the body as {expected}");
        Err(Problem::new(ProblemKind::MediaType, detail)
            .field("Content-Type")
            .into())
    }

    fn check_coding(&self, request: &ServiceRequest) -> Result<(), ProblemError> {
        match header_text(request.request(), CONTENT_ENCODING)? {
            Some(coding) if !coding.trim().eq_ignore_ascii_case("identity") => {
                let detail = "Send the body without a content coding";
                Err(Problem::new(ProblemKind::MediaType, detail)
                    .field("Content-Encoding")
                    .into())
            }
            _ => Ok(()),
        }
    }

    fn check_conditions(&self, request: &ServiceRequest) -> Result<(), ProblemError> {
        for condition in [IF_MATCH, IF_NONE_MATCH] {
            let name = condition.as_str();
            if request.headers().contains_key(&condition) && !self.evaluates(name) {
                let title = condition_title(&condition);
                let detail = format!(
                    "{title} is not evaluated for {} here; nothing was done",
                    self.method
                );
                return Err(Problem::new(ProblemKind::ConditionFailed, detail)
                    .field(title)
                    .into());
            }
        }
        Ok(())
    }
}

/// Whether the caller of a request has what its route needs, as far as the path tells. `parameter`
/// gives those of the path.
///
/// # Errors
/// 403 `forbidden`.
pub(super) fn check_access<'a>(
    access: Access,
    request: &HttpRequest,
    parameter: impl Fn(&str) -> Option<&'a str>,
) -> Result<(), ProblemError> {
    let (rights, scope) = match access {
        Access::Anyone => return Ok(()),
        Access::Sidecar => return check_sidecar(request),
        // The layer before the routes has refused callers that are not known.
        Access::Caller if is_known(request) => return Ok(()),
        Access::Caller => (&[][..], Scope::Service),
        // Without credentials the path is not read.
        Access::Right(..) if is_unrestricted(request) => return Ok(()),
        Access::Right(rights, scope) => (rights, scope),
    };
    let collection = parameter("collection").and_then(|name| name.parse().ok());
    let id = parameter("id").and_then(|id| id.parse().ok());
    let target = match (scope, &collection, &id) {
        (Scope::Selection, _, _) => Target::Selection,
        (Scope::Document, Some(collection), Some(id)) => Target::Document(collection, id),
        (Scope::Document | Scope::Collection, Some(collection), _) => {
            Target::Collection(collection)
        }
        (Scope::DocumentsOf, Some(collection), _) => Target::DocumentsOf(collection),
        (Scope::Service, _, _) | (_, None, _) => Target::Service,
    };
    Caller::of(request).require_one(rights, target)
}

/// Middleware of one path: refuses a request that does not keep the rules of its method. A method
/// without rules is answered 405 by the path.
///
/// # Errors
/// As the inner service.
pub(super) async fn keep_rules(
    rules: Rc<[RouteRules]>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let rule = rules.iter().find(|rule| rule.method == *request.method());
    let Some(Err(refused)) = rule.map(|rule| rule.check(&request)) else {
        return next.call(request).await;
    };
    let mut answer = refused.error_response();
    if refused.problem().field.as_deref() == Some("Content-Encoding") {
        // RFC 9110 section 12.5.3: what the route would accept.
        answer
            .headers_mut()
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    Ok(request.into_response(answer))
}
