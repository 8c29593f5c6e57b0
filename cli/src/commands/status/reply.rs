//! The reply of one service to one request, or why there is none.

use client::{ClientError, Endpoint};
use serde::Serialize;

/// A reply with the base URL of the service. As JSON `{"url":…,"answer":…}` or
/// `{"url":…,"error":"…"}`.
#[derive(Debug, Serialize)]
pub(super) struct Reply<T> {
    pub(super) url: String,
    #[serde(flatten)]
    pub(super) result: ReplyResult<T>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ReplyResult<T> {
    Answer(T),
    Error(String),
}

impl<T> Reply<T> {
    pub(super) fn new(service: &Endpoint, result: Result<T, ClientError>) -> Self {
        let result = match result {
            Ok(answer) => ReplyResult::Answer(answer),
            Err(error) => ReplyResult::Error(error.to_string()),
        };
        Self {
            url: service.base().to_owned(),
            result,
        }
    }

    pub(super) fn answer(&self) -> Option<&T> {
        match &self.result {
            ReplyResult::Answer(answer) => Some(answer),
            ReplyResult::Error(_) => None,
        }
    }

    pub(super) fn error(&self) -> Option<&str> {
        match &self.result {
            ReplyResult::Answer(_) => None,
            ReplyResult::Error(error) => Some(error),
        }
    }
}
