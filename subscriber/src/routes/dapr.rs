//! What a sidecar calls: which topics this subscriber wants, and the events themselves.
//!
//! An event is always answered 200: on any other code the sidecar ignores the body and retries, and 404 would lose the
//! event without a word. So nothing here uses an extractor that could refuse. What the answer says is about the event
//! alone.

use std::{sync::Arc, time::Duration};

use actix_web::{
    Error, HttpRequest, HttpResponse, ResponseError,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    error::PayloadError,
    middleware::Next,
    web,
};
use contract::event::{DEAD_LETTER_TOPIC, ROUTE};
use futures_util::StreamExt;
use replica::{Answer, Events};
use serde::Serialize;
use tokio::time::timeout;

use super::AppState;
use crate::{envelope, error::ApiError, settings::Settings};

/// Largest event that is read: the sidecar's own limit.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
/// A larger one is read and thrown away up to here, so that its sender hears the answer; beyond, the connection ends.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;

/// How long an event may take to arrive: a sender that hangs must not hold its connection for ever.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A topic that this subscriber wants, as a sidecar reads it (seeds.md A24).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    #[serde(rename = "pubsubname")]
    pubsub_name: String,
    topic: String,
    routes: Routes,
    dead_letter_topic: &'static str,
}

#[derive(Debug, Serialize)]
struct Routes {
    default: &'static str,
}

/// One per collection; none when events are off, or do not come this way.
pub(super) fn subscriptions(settings: &Settings) -> Arc<[Subscription]> {
    let subscription = |topic: &contract::CollectionName| Subscription {
        pubsub_name: settings.pubsub_name.clone(),
        topic: topic.to_string(),
        routes: Routes { default: ROUTE },
        dead_letter_topic: DEAD_LETTER_TOPIC,
    };
    let posted = matches!(settings.events, Events::Posted);
    settings.collections.iter().filter(|_each| posted).map(subscription).collect()
}

/// `GET /dapr/subscribe`. A sidecar asks once in its life, so this needs nothing and never fails.
pub async fn subscribe(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(&state.subscriptions)
}

/// `POST /dapr/processConfigurationEvents`.
pub async fn process(request: HttpRequest, payload: web::Payload, state: web::Data<AppState>) -> HttpResponse {
    let replica = &state.replica;
    let read = timeout(BODY_TIME, read(payload)).await.unwrap_or_else(|late| Err(PayloadError::Io(late.into())));
    let answer = match read {
        Ok(Some(body)) => match envelope::read(request.headers(), &body) {
            Ok(event) => replica.receive(event.data, event.expiration).await,
            Err(poison) => replica.dropped(poison.reason, poison.error),
        },
        Ok(None) => replica.dropped("too-large", format_args!("the event is larger than {MAX_BODY} bytes")),
        Err(error) => Answer::Retry { reason: error.to_string() },
    };
    HttpResponse::Ok().json(AnswerBody::from(answer))
}

#[derive(Serialize)]
#[serde(tag = "status", rename_all = "UPPERCASE")]
enum AnswerBody {
    Success,
    Retry,
    Drop { error: String },
}

impl From<Answer> for AnswerBody {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Success => Self::Success,
            Answer::Retry { .. } => Self::Retry,
            Answer::Drop { reason, error } => Self::Drop { error: format!("{reason}: {error}") },
        }
    }
}

/// The body; `None` when it is too large.
async fn read(mut payload: web::Payload) -> Result<Option<Vec<u8>>, PayloadError> {
    let (mut body, mut length) = (Vec::new(), 0);
    while let Some(piece) = payload.next().await {
        let piece = piece?;
        length += piece.len();
        if length <= MAX_BODY {
            body.extend_from_slice(&piece);
        } else {
            body = Vec::new();
        }
        if length > MAX_DISCARDED {
            break;
        }
    }
    Ok((length <= MAX_BODY).then_some(body))
}

/// Lets nobody to `/dapr/*` who does not know the token, if there is one. A sidecar takes the 401 for a passing failure
/// and sends the event again, so that a token that was mistyped costs no event.
pub(super) async fn check_token(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let token = request.app_data::<web::Data<AppState>>().and_then(|state| state.token.clone());
    let given = request.headers().get("dapr-api-token").map(|value| value.as_bytes()).unwrap_or_default();
    if token.is_none_or(|token| token.is(given)) {
        next.call(request).await
    } else {
        Ok(request.into_response(ApiError::unauthorized().error_response()))
    }
}
