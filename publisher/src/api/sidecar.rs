//! The routes that the sidecar of a publisher calls: which topic it reads for the publisher, and the
//! dead letters of that topic.
//!
//! The topic is read raw, because a dead letter keeps its `expiration`: a sidecar that reads it as an
//! event drops it (requirement F5). Raw, the sidecar wraps the bytes of the topic in an event of its
//! own, with `data_base64`. Nothing is said about the letter that would let it be lost: the answer is
//! SUCCESS once it is stored, and RETRY before.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Bytes},
};
use contract::{
    Problem, ProblemKind, dead_letter, event, objects,
    sidecar::{EventReply, EventReplyStatus, RawEvent, Subscription, TOKEN_HEADER},
};
use service::{http::bodies::Body, runtime::log_rate::LogRate};
use subtle::ConstantTimeEq;

use crate::api::{Api, error::ApiError};

/// What the sidecar of this publisher does for it.
#[derive(Clone, Default)]
pub struct SidecarAccess {
    /// The component that it reads the dead letter topic with; `None` with another transport than
    /// `DAPR`.
    pub pubsub_name: Option<String>,
    /// What it sends as `dapr-api-token`; `None` accepts every caller.
    pub token: Option<String>,
}

/// Without the token.
impl std::fmt::Debug for SidecarAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SidecarAccess({:?})", self.pubsub_name)
    }
}

impl SidecarAccess {
    /// # Errors
    /// 401 `unauthorized`.
    fn check(&self, request: &HttpRequest) -> Result<(), ApiError> {
        let given = request.headers().get(TOKEN_HEADER);
        let given = given.map(|value| value.as_bytes()).unwrap_or_default();
        // In constant time: the duration must not tell where the difference is.
        let is_right =
            (self.token.as_ref()).is_none_or(|token| token.as_bytes().ct_eq(given).into());
        if is_right {
            return Ok(());
        }
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(
                "a caller of /dapr/* was refused with 401: its {TOKEN_HEADER} is missing or is not \
                 the APP_API_TOKEN of this publisher; dead letters do not arrive until it is the \
                 same for the publisher and its sidecar{left_out}"
            );
        }
        let detail =
            format!("The header {TOKEN_HEADER} must carry the APP_API_TOKEN of this publisher");
        Err(Problem::new(ProblemKind::Unauthorized, detail)
            .field(TOKEN_HEADER)
            .into())
    }
}

/// `GET /dapr/subscribe`: the dead letter topic, or nothing with another transport. A sidecar asks once
/// in its life.
pub(super) async fn subscribe(
    api: web::Data<Api>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    api.sidecar.check(&request)?;
    let topic = api.sidecar.pubsub_name.as_deref();
    let topics: Vec<_> = topic
        .map(Subscription::of_dead_letters)
        .into_iter()
        .collect();
    Ok(HttpResponse::Ok().json(topics))
}

/// `POST /dapr/deadLetters`.
pub(super) async fn receive(
    api: web::Data<Api>,
    request: HttpRequest,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
    api.sidecar.check(&request)?;
    let status = match api.dead_letters.add_moved(&unwrapped(&body)).await {
        Ok(_id) => EventReplyStatus::Success,
        Err(error) => {
            static LINES: LogRate = LogRate::new();
            if let Some(left_out) = LINES.due() {
                tracing::warn!(
                    "a dead letter could not be stored; the sidecar delivers it again: \
                     {error:#}{left_out}"
                );
            }
            EventReplyStatus::Retry
        }
    };
    Ok(HttpResponse::Ok().json(EventReply {
        status,
        error: None,
    }))
}

/// The bytes of the topic. A sidecar that does not read it raw sends them as they are.
fn unwrapped(body: &Bytes) -> Bytes {
    objects::from_slice::<RawEvent>(body)
        .ok()
        .and_then(|raw| dead_letter::decode(&raw.data_base64).ok())
        .map_or_else(|| body.clone(), Bytes::from)
}

/// The media type of what a sidecar posts.
pub(super) const MEDIA_TYPE: &str = event::MEDIA_TYPE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_is_inside_the_envelope_of_a_raw_topic_or_is_the_body() {
        let raw = br#"{"id":"1","data_base64":"eyJhIjoxfQ==","datacontenttype":"application/octet-stream"}"#;
        assert_eq!(&unwrapped(&Bytes::from_static(raw))[..], br#"{"a":1}"#);
        for body in [
            &b"{\"specversion\":\"1.0\"}"[..],
            b"<config/>",
            b"",
            b"{\"data_base64\":\"?\"}",
        ] {
            let body = Bytes::copy_from_slice(body);
            assert_eq!(unwrapped(&body), body);
        }
    }
}
