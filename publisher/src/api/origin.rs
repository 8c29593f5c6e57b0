//! Origin of a write: who makes it, and the ids and the trace context from the headers of its request,
//! which go into the change and its event.
//!
//! The user of a change is the caller that was authenticated. A caller with the right `assert-user`
//! may name another user; then the change names both. An anonymous caller says who it is, and nobody
//! verifies it. A malformed id is refused; a malformed trace context is left out. Nothing is
//! generated for a request without them.

use actix_web::HttpRequest;
use contract::{
    Context, FormatError,
    access::{Right, Target},
    context,
};
use service::http::{caller::Caller, header_text, problem::ProblemError, trace::traceparent};

use crate::{api::error::ApiError, decide::DocumentKey};

/// The caller as the author of a change.
#[derive(Debug, Clone)]
pub(super) struct Author {
    /// The caller.
    pub(super) caller: Caller,
    /// What the change says of its origin.
    pub(super) context: Context,
    /// Whether the request names a user or an organisation that the caller is not.
    asserts: bool,
}

impl Author {
    /// The author of a request.
    ///
    /// # Errors
    /// 400 `bad-request` for a malformed header; 403 `forbidden` when the caller names a user and may
    /// not do so anywhere.
    pub(super) fn of(caller: Caller, request: &HttpRequest) -> Result<Self, ApiError> {
        let context = context(request)?;
        if caller.identity().is_anonymous() {
            return Ok(Self {
                caller,
                context,
                asserts: false,
            });
        }
        let name = &caller.identity().name;
        let organisation = context.organisation_id().is_some();
        let asserts = organisation || context.user_id().is_some_and(|user| *user != **name);
        let context = context.by(name, asserts);
        let author = Self {
            caller,
            context,
            asserts,
        };
        // Not silently dropped: the change would then name the gateway alone.
        author.require(&[], Target::Selection)?;
        Ok(author)
    }

    /// The author of an act that concerns the whole service. The rule of its route has asked for the
    /// right to it.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(super) fn of_service(caller: &Caller, request: &HttpRequest) -> Result<Self, ApiError> {
        let author = Self::of(caller.clone(), request)?;
        author.require(&[], Target::Service)?;
        Ok(author)
    }

    /// # Errors
    /// 403 `forbidden` when the caller may not write this document, or not for the user that it names.
    pub(super) fn require_write(&self, (collection, id): &DocumentKey) -> Result<(), ApiError> {
        self.require(&[Right::Write], Target::Document(collection, id))
    }

    /// Asks for all of these rights, and for the right to name another user where the request does.
    ///
    /// # Errors
    /// 403 `forbidden`.
    pub(super) fn require(&self, rights: &[Right], target: Target<'_>) -> Result<(), ApiError> {
        for right in rights {
            self.caller.require(*right, target)?;
        }
        if self.asserts {
            let asserted = self.caller.require(Right::AssertUser, target);
            asserted.map_err(|refused| {
                let mut problem = refused.into_problem();
                problem.field = Some(context::USER_ID.to_owned());
                let headers = [context::USER_ID, context::ORGANISATION_ID].join(" or ");
                problem.detail = format!("{}. The request has {headers}", problem.detail);
                ApiError { problem }
            })?;
        }
        Ok(())
    }
}

type With = fn(Context, &str) -> Result<Context, FormatError>;

/// The context from the headers of a request.
pub(super) fn context(request: &HttpRequest) -> Result<Context, ApiError> {
    let ids: [(&str, With); 3] = [
        (context::CORRELATION_ID, Context::with_correlation_id),
        (context::USER_ID, Context::with_user_id),
        (context::ORGANISATION_ID, Context::with_organisation_id),
    ];
    let mut context = Context::default();
    for (header, with) in ids {
        if let Some(text) = header_text(request, header)? {
            // The error does not repeat the value: it may be personal data.
            let refused = |_malformed| {
                ProblemError::bad_request(header, "expected 1 to 128 visible ASCII characters")
            };
            context = with(context, &text).map_err(refused)?;
        }
    }
    if let Some(text) = request.headers().get(context::CHANGE_REASON) {
        let refused = |_malformed| {
            ProblemError::bad_request(
                context::CHANGE_REASON,
                "expected 1 to 512 bytes of UTF-8 without control characters",
            )
        };
        // Not only ASCII: a reason is written by people.
        let text = String::from_utf8_lossy(text.as_bytes());
        context = context.with_reason(&text).map_err(refused)?;
    }
    // W3C Trace Context: a receiver ignores a malformed header.
    Ok(match traceparent(request.headers()) {
        Some(text) => context.clone().with_traceparent(text).unwrap_or(context),
        None => context,
    })
}
