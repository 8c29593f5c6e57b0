//! The routes that the sidecar of a publisher calls: which topic it reads for the publisher, and the
//! dead letters of that topic.
//!
//! The topic is read raw, because a dead letter keeps its `expiration`: a sidecar that reads it as an
//! event drops it (requirement F5). Raw, the sidecar wraps the bytes of the topic in an event of its
//! own, with `data_base64`. Nothing is said about the letter that would let it be lost: the answer is
//! SUCCESS once it is stored, and RETRY before.
//!
//! The layer of authentication has asked for the token of the sidecar.

use actix_web::{
    HttpResponse,
    web::{self, Bytes},
};
use contract::{
    dead_letter, event, objects,
    sidecar::{EventReply, EventReplyStatus, RawEvent, Subscription},
};
use service::{http::bodies::Body, runtime::log_rate::LogRate};

use crate::api::{Api, error::ApiError};

/// `GET /dapr/subscribe`: the dead letter topic, or nothing with another transport. A sidecar asks once
/// in its life.
pub(super) async fn subscribe(api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    let topic = api.sidecar_pubsub.as_deref();
    let topics: Vec<_> = topic
        .map(Subscription::of_dead_letters)
        .into_iter()
        .collect();
    Ok(HttpResponse::Ok().json(topics))
}

/// `POST /dapr/deadLetters`.
pub(super) async fn receive(
    api: web::Data<Api>,
    Body(body): Body,
) -> Result<HttpResponse, ApiError> {
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
