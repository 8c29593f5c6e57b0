//! What the fuzz targets need besides the public interface: both ways in which an event is read.
//!
//! Nothing of the product uses this module.

use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use state::SignedChange;

use crate::intake;

/// What both ways read of the same request.
#[derive(Debug)]
pub struct ReadEvent {
    /// The change that the fast path reads; `None` when it leaves the event to the other path.
    pub fast: Option<SignedChange>,
    /// The data that the other path reads; the reason when the request is no event.
    pub slow: Result<Value, String>,
}

/// Reads the request of a sidecar in both ways.
pub fn read_event(media_type: &[u8], body: &[u8]) -> ReadEvent {
    let mut headers = HeaderMap::new();
    if let Ok(media_type) = actix_web::http::header::HeaderValue::from_bytes(media_type) {
        headers.insert(CONTENT_TYPE, media_type);
    }
    intake::read_both(&headers, body)
}
