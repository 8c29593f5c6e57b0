//! Origin of a write: ids and the trace context from the headers of its request go into the change
//! and its event.
//!
//! A malformed id is refused; a malformed trace context is left out. Nothing is generated for a
//! request without them.

use actix_web::HttpRequest;
use contract::{Context, FormatError, context, event};
use service::http::{header_text, problem::ProblemError};

use crate::api::error::ApiError;

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
    let traceparent = request
        .headers()
        .get(event::TRACEPARENT)
        .and_then(|value| value.to_str().ok());
    Ok(match traceparent {
        Some(text) => context.clone().with_traceparent(text).unwrap_or(context),
        None => context,
    })
}
