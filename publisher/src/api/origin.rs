//! Where a write comes from: what its request says of itself goes into the change and its event.
//!
//! A malformed id is refused; a malformed trace context is left out. Nothing is made up for a
//! request that says nothing.

use actix_web::HttpRequest;
use contract::{Context, FormatError, event};

use crate::api::{error::ApiError, header_text};

type With = fn(Context, &str) -> Result<Context, FormatError>;

/// What the headers of a request say.
pub(super) fn context(request: &HttpRequest) -> Result<Context, ApiError> {
    let ids: [(&str, With); 3] = [
        ("X-Correlation-Id", Context::with_correlation_id),
        ("X-User-Id", Context::with_user_id),
        ("X-Organisation-Id", Context::with_organisation_id),
    ];
    let mut context = Context::default();
    for (header, with) in ids {
        if let Some(text) = header_text(request, header)? {
            // It is not repeated: it may be personal.
            let refused = |_malformed| {
                ApiError::bad_field(header, "expected 1 to 128 visible ASCII characters")
            };
            context = with(context, &text).map_err(refused)?;
        }
    }
    // A trace context of another form is not ours to refuse a write for.
    let traceparent = request
        .headers()
        .get(event::TRACEPARENT)
        .and_then(|value| value.to_str().ok());
    Ok(match traceparent {
        Some(text) => context.clone().with_traceparent(text).unwrap_or(context),
        None => context,
    })
}
