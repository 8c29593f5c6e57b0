//! One table of routes for a service: the router and the OpenAPI document are both made from it, so
//! that neither has a route which the other lacks. Method, path and the right that a caller needs are
//! one row of [`contract::access::routes`], so a route cannot be added without a right.
//!
//! The table says which handler a route has; it contains no logic of a handler. What every request
//! of a route must keep is derived from its description (`rules`).

use std::rc::Rc;

use actix_web::{
    FromRequest, Handler, HttpMessage, HttpRequest, Responder, Route, Scope, http::Method,
    middleware::from_fn, web,
};
use contract::{
    ProblemKind,
    access::{
        Right,
        routes::{Access, GET_CHANGES, GET_COLLECTION_CHANGES, GET_SNAPSHOT, RouteAccess},
    },
};

use super::{
    bodies::UNREAD_LIMIT,
    openapi::{ApiDocument, ApiOperation},
    rate::RequestClass,
    rules::{RouteRules, keep_rules},
};

/// A method of a path: its handler, what a caller needs for it, and its description. The description
/// is a function, because the document is built once and routes are built for every worker.
pub struct ApiRoute {
    method: Method,
    access: RouteAccess,
    /// `None` when another scope serves the route.
    route: Option<Route>,
    /// In bytes.
    body_limit: usize,
    is_write: bool,
    operation: fn() -> ApiOperation,
}

impl ApiRoute {
    /// A route with its handler. Its row says method and path, and what a caller needs.
    pub fn new<F, Args>(access: RouteAccess, handler: F, operation: fn() -> ApiOperation) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let mut route = Self::described(access, operation);
        route.route = Some(web::method(route.method.clone()).to(handler));
        route
    }

    /// A route that another scope serves: it is described here, and not added to the router.
    ///
    /// # Panics
    /// When the method of the row is none.
    pub fn described(access: RouteAccess, operation: fn() -> ApiOperation) -> Self {
        Self {
            method: Method::from_bytes(access.method.as_bytes()).expect("a method"),
            access,
            route: None,
            body_limit: UNREAD_LIMIT,
            is_write: false,
            operation,
        }
    }

    /// The class that [`super::rate`] counts it as.
    pub fn class(&self) -> RequestClass {
        match self.access.access {
            Access::Anyone | Access::Sidecar => RequestClass::Exempt,
            Access::Right(rights, _scope) if rights.contains(&Right::Follow) => {
                RequestClass::Follow
            }
            // Replicas read them as readers do.
            _read if [GET_SNAPSHOT, GET_CHANGES, GET_COLLECTION_CHANGES].contains(&self.access) => {
                RequestClass::Follow
            }
            _any if self.method.is_safe() => RequestClass::Read,
            _change => RequestClass::Write,
        }
    }

    /// The same, with a limit for the body in bytes; [`super::bodies`] applies it. The largest limit
    /// of a path holds for all of its methods.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// The same, counted among the writes of the service.
    #[must_use]
    pub fn counts_as_write(mut self) -> Self {
        self.is_write = true;
        self
    }

    /// Whether its requests are counted among the writes of the service.
    pub fn is_write(&self) -> bool {
        self.is_write
    }

    /// The limit for the body, in bytes.
    pub fn limit(&self) -> usize {
        self.body_limit
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, with its parameters in braces.
    pub fn path(&self) -> &'static str {
        self.access.path
    }

    /// What a caller needs.
    pub fn access(&self) -> RouteAccess {
        self.access
    }
}

/// Adds the routes to a scope, in the order of the table: actix-web tries paths in this order.
/// Routes of one path must be neighbours in the table.
pub fn add(mut scope: Scope, table: Vec<ApiRoute>) -> Scope {
    let mut served = table.into_iter().peekable();
    // One resource per path: only then does actix-web answer 405 for a method that the path lacks.
    while let Some(first) = served.next() {
        let path = first.path();
        let mut resource = web::resource(path);
        let mut rules = Vec::new();
        let mut next = Some(first);
        while let Some(ApiRoute {
            method,
            access,
            route: Some(route),
            operation,
            ..
        }) = next
        {
            resource = resource.route(route);
            rules.push(RouteRules::of(method, access.access, &operation()));
            next = served.next_if(|next| next.path() == path);
        }
        if rules.is_empty() {
            // Another scope serves the route.
            continue;
        }
        let rules: Rc<[RouteRules]> = rules.into();
        scope = scope.service(resource.wrap(from_fn(move |request, next| {
            keep_rules(Rc::clone(&rules), request, next)
        })));
    }
    scope
}

/// The pattern of the path of a request; `None` when no route has the path.
///
/// actix-web tries one pattern after the other, so the layers share what the first of them found.
pub fn pattern(request: &HttpRequest) -> Option<Rc<str>> {
    #[derive(Clone)]
    struct Found(Option<Rc<str>>);
    let known = request.extensions().get::<Found>().cloned();
    let Found(pattern) = known.unwrap_or_else(|| {
        let found = Found(request.match_pattern().map(Rc::from));
        request.extensions_mut().insert(found.clone());
        found
    });
    pattern
}

/// Adds the operations of all routes to a document, also of those that another scope serves.
pub fn describe(document: ApiDocument, table: &[ApiRoute]) -> ApiDocument {
    let document = document.bearer(
        CREDENTIAL,
        "A token of this service, or a JWT of an issuer that it trusts; needed where the service has \
         credentials",
    );
    table.iter().fold(document, |document, route| {
        let method = route.method.as_str().to_ascii_lowercase();
        document.operation(&method, route.path(), guarded(route))
    })
}

/// Name of the credential of a caller in the OpenAPI document.
const CREDENTIAL: &str = "credential";

/// The operation of a route, with the problems of the guard, of the bodies and of the rules. Any
/// request may have a body, also where no handler reads it.
fn guarded(route: &ApiRoute) -> ApiOperation {
    let mut operation = (route.operation)().problems(&[
        ProblemKind::BadRequest,
        ProblemKind::ForeignOrigin,
        ProblemKind::UnknownHost,
    ]);
    if route.route.is_some() {
        operation = operation.problems(&[
            ProblemKind::BodyLate,
            ProblemKind::TooLarge,
            ProblemKind::Busy,
        ]);
    }
    operation = match route.access.access {
        Access::Anyone | Access::Sidecar => operation,
        Access::Caller => operation
            .secured(CREDENTIAL)
            .problems(&[ProblemKind::Unauthenticated]),
        Access::Right(rights, scope) => operation
            .secured(CREDENTIAL)
            .needs(rights, scope)
            .problems(&[ProblemKind::Unauthenticated, ProblemKind::Forbidden]),
    };
    if route.class() != RequestClass::Exempt {
        operation = operation.problems(&[ProblemKind::TooManyRequests]);
    }
    if operation.is_negotiated() {
        operation = operation.problems(&[ProblemKind::NotAcceptable]);
    }
    if route.method.is_safe() || route.route.is_none() {
        operation
    } else {
        operation.problems(&[ProblemKind::MediaType, ProblemKind::ConditionFailed])
    }
}
