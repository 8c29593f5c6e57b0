//! The caller of a request, as handlers and rules ask what it may do: the one place that refuses for
//! a missing right.
//!
//! A refusal is a problem that says what is missing, one log line, and one count. Whether a right is
//! given is decided by [`contract::access`]; who the caller is, by [`super::access`].

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload};
use contract::{
    CollectionName, Problem, ProblemKind,
    access::{Identity, MissingRight, Right, Target},
    text::Escaped,
};

use super::{access::identity, problem::ProblemError, refusals::Refusals};
use crate::runtime::log_rate::LogRate;

/// The caller of a request. Handlers take it as an argument.
#[derive(Debug, Clone)]
pub struct Caller {
    identity: Identity,
    refusals: Refusals,
}

impl FromRequest for Caller {
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        ready(Ok(Self::of(request)))
    }
}

impl Caller {
    /// The caller of a request. Without the layer that finds it, it has no right.
    pub fn of(request: &HttpRequest) -> Self {
        Self {
            identity: identity(request),
            refusals: Refusals::of(request),
        }
    }

    /// Its proven name, and its grants.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it has the right, where the answer only leaves out what it lacks.
    pub fn may(&self, right: Right, target: Target<'_>) -> bool {
        self.identity.may(right, target)
    }

    /// Whether it may know of every collection.
    pub fn sees_all(&self) -> bool {
        self.may(Right::Read, Target::Service) || self.may(Right::Observe, Target::Service)
    }

    /// # Errors
    /// 403 `forbidden`, logged and counted.
    pub fn require(&self, right: Right, target: Target<'_>) -> Result<(), ProblemError> {
        self.require_one(&[right], target)
    }

    /// The same as [`Self::require`], for one of several rights.
    ///
    /// # Errors
    /// 403 `forbidden`, logged and counted.
    pub fn require_one(&self, rights: &[Right], target: Target<'_>) -> Result<(), ProblemError> {
        let allowed = self.identity.require_one(rights, target);
        allowed.map_err(|missing| self.refused(missing))
    }

    /// A collection that a query or a body names, when the caller has one of the rights for all of
    /// it. It need not be served: a caller learns the same of what it may not see and of what does
    /// not exist.
    ///
    /// # Errors
    /// 403 `forbidden`.
    pub fn collection(&self, rights: &[Right], name: &str) -> Result<(), ProblemError> {
        match name.parse::<CollectionName>() {
            Ok(name) => self.require_one(rights, Target::Collection(&name)),
            // No grant names it.
            Err(_no_name) => self.require_one(rights, Target::Service),
        }
    }

    /// The refusal of a request that needs more than its caller has.
    pub fn refused(&self, missing: MissingRight) -> ProblemError {
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(
                caller = %Escaped(&self.identity.name),
                "a request of the caller {} was refused with 403: {missing}{left_out}",
                Escaped(&self.identity.name)
            );
        }
        let right = missing.rights.first().copied();
        self.refusals.count(ProblemKind::Forbidden, right);
        let mut problem = Problem::new(ProblemKind::Forbidden, missing.to_string());
        problem.right = right;
        problem.into()
    }
}

/// Whether a request has a caller that the service knows. A request that needs no credential has none
/// where the service has credentials.
pub fn is_known(request: &HttpRequest) -> bool {
    request.extensions().contains::<Identity>()
}

/// Whether no credential was asked for, and every right is given.
pub(super) fn is_unrestricted(request: &HttpRequest) -> bool {
    let extensions = request.extensions();
    extensions
        .get::<Identity>()
        .is_some_and(Identity::is_unrestricted)
}
