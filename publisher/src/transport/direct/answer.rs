//! The answer of a subscriber: its parts are bounded, and nothing of the request is in an error.

use anyhow::anyhow;
use contract::{
    Problem,
    sidecar::{EventReply, EventReplyStatus},
};
use reqwest::{RequestBuilder, Response};

/// Most characters of the reason that a subscriber gives for a refusal.
const REASON_CHARS: usize = 300;
/// Bytes of an answer that are read.
const ANSWER_BYTES: usize = 64 * 1024;

/// Whether a connection was made and is no use, because the ends do not agree on TLS: one has none, or
/// the certificate is not accepted.
pub(super) fn is_of_tls(error: &reqwest::Error) -> bool {
    let error: &(dyn std::error::Error + 'static) = error;
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::InvalidData)
    })
}

/// The status in the answer to an event. As for a sidecar, an empty or unreadable body means success.
pub(super) fn reply_status(body: &[u8]) -> EventReplyStatus {
    contract::objects::from_slice::<EventReply>(body)
        .unwrap_or_default()
        .status
}

/// Sends a request. The error does not name the URL, which may hold a password.
pub(super) async fn send(request: RequestBuilder) -> reqwest::Result<Response> {
    request.send().await.map_err(reqwest::Error::without_url)
}

/// Why an answer is not a success: the reason that the subscriber gives, where it gives one.
pub(super) async fn refusal(to: &str, answer: Response) -> anyhow::Error {
    let status = answer.status();
    // Nothing is lost when the body cannot be read: the status is known.
    let body = read_body(answer).await.unwrap_or_default();
    let reason = contract::objects::from_slice::<Problem>(&body)
        .map(|problem| {
            // It is shown in the list of replicas.
            let detail: String = problem.detail.chars().take(REASON_CHARS).collect();
            format!(": {detail}")
        })
        .unwrap_or_default();
    anyhow!("the subscriber answered {status} to {to}{reason}")
}

/// The first [`ANSWER_BYTES`] of a body, which is all of an expected one.
pub(super) async fn read_body(mut answer: Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES
        && let Some(piece) = answer.chunk().await.map_err(reqwest::Error::without_url)?
    {
        body.extend_from_slice(&piece[..piece.len().min(ANSWER_BYTES - body.len())]);
    }
    Ok(body)
}
