//! Where a write comes from: what its request says of itself goes into the change and its event.
//!
//! A malformed correlation id is refused; a malformed trace context is left out.

use actix_web::{HttpRequest, http::header::HeaderName};
use contract::event;

use super::header_text;
use crate::error::ApiError;

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// Longest `X-Correlation-Id`.
const CORRELATION_ID_LEN: usize = 128;

/// `X-Correlation-Id`, if there is one.
pub(super) fn correlation_id(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    let Some(text) = header_text(request, CORRELATION_ID)? else { return Ok(None) };
    if (1..=CORRELATION_ID_LEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Some(text))
    } else {
        Err(ApiError::bad_field("X-Correlation-Id", "expected 1 to 128 visible ASCII characters"))
    }
}

/// `traceparent` of the request when it has the W3C form; another one is not ours to refuse a write for.
pub(super) fn traceparent(request: &HttpRequest) -> Option<String> {
    let text = request.headers().get(event::TRACEPARENT).and_then(|value| value.to_str().ok());
    text.filter(|text| is_traceparent(text)).map(str::to_owned)
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, not all zeroes (W3C Trace Context section 3.2).
fn is_traceparent(text: &str) -> bool {
    let lower_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let not_zero = |part: &str| part.bytes().any(|byte| byte != b'0');
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { return false };
    version == "00"
        && (trace.len(), parent.len(), flags.len()) == (32, 16, 2)
        && [trace, parent, flags].iter().all(|part| lower_hex(part))
        && not_zero(trace)
        && not_zero(parent)
}

#[cfg(test)]
mod tests {
    use super::is_traceparent;

    #[test]
    fn only_valid_trace_contexts_travel() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in [
            "",
            "00-0-0-0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
