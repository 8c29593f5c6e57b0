//! What a sidecar calls, to be mounted in a service that has actix-web already: which topics are
//! wanted, and the events.
//!
//! An event is always answered 200: on any other code the sidecar ignores the body and retries, and
//! 404 would lose the event without a word. So nothing here uses an extractor that could refuse.
//! What the answer says is about the event alone: nobody who reads the configuration, and no
//! handler, has a say in it.

mod envelope;

use std::{pin::pin, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    dev::HttpServiceFactory,
    error::PayloadError,
    http::header::{CONTENT_TYPE, HeaderMap},
    web,
};
use contract::{
    Problem,
    event::{DEAD_LETTER_TOPIC, ROUTE, SUBSCRIBE_ROUTE},
    problem::MEDIA_TYPE,
};
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use crate::{Answer, Events, HeaderValue, Replica};

/// Where the routes are.
const PREFIX: &str = "/dapr";
/// Largest event that is read: the sidecar's own limit.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// A larger one is read and thrown away up to here, so that its sender hears the answer; beyond,
/// the connection ends.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;

/// How long an event may take to arrive: a sender that hangs must not hold its connection for ever.
const BODY_TIME: Duration = Duration::from_secs(10);

/// What the routes must be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the pub/sub component that events come from.
    pub pubsub_name: String,
    /// What callers must send as `dapr-api-token`: the `APP_API_TOKEN` that the sidecar has.
    /// `None` takes [`Config::app_token`](crate::Config::app_token), and where that is `None`
    /// too, anybody may call.
    pub token: Option<HeaderValue>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pubsub_name: "pubsub-config".to_owned(),
            token: None,
        }
    }
}

struct Shared {
    replica: Replica,
    token: Option<HeaderValue>,
    subscriptions: Vec<Subscription>,
}

/// The two routes below `/dapr`, for [`App::service`](actix_web::App::service). No topics are
/// wanted unless [`Config::events`](crate::Config::events) is [`Events::Posted`].
pub fn scope(replica: &Replica, options: &Options) -> impl HttpServiceFactory + 'static {
    let token = options
        .token
        .as_ref()
        .or(replica.config().app_token.as_ref())
        .cloned();
    let shared = Shared {
        replica: replica.clone(),
        token,
        subscriptions: subscriptions(replica, options),
    };
    web::scope(PREFIX)
        .app_data(web::Data::new(shared))
        .service(web::resource(below(SUBSCRIBE_ROUTE)).get(subscribe))
        .service(web::resource(below(ROUTE)).post(process))
}

fn below(route: &'static str) -> &'static str {
    route.strip_prefix(PREFIX).unwrap_or(route)
}

/// A topic that is wanted, as a sidecar reads it (requirement A24).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
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
fn subscriptions(replica: &Replica, options: &Options) -> Vec<Subscription> {
    let subscription = |topic: &contract::CollectionName| Subscription {
        pubsub_name: options.pubsub_name.clone(),
        topic: topic.to_string(),
        routes: Routes { default: ROUTE },
        dead_letter_topic: DEAD_LETTER_TOPIC,
    };
    let posted = matches!(replica.config().events, Events::Posted);
    replica
        .config()
        .collections
        .iter()
        .filter(|_each| posted)
        .map(subscription)
        .collect()
}

/// `GET /dapr/subscribe`. A sidecar asks once in its life, so this needs nothing and never fails.
async fn subscribe(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if !shared.knows(&request) {
        return unauthorized();
    }
    HttpResponse::Ok().json(&shared.subscriptions)
}

/// `POST /dapr/processConfigurationEvents`.
async fn process(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> HttpResponse {
    if !shared.knows(&request) {
        return unauthorized();
    }
    let replica = &shared.replica;
    let mut reading = pin!(read(payload));
    // Most bodies are there with their head, and need no clock.
    let read = match reading.as_mut().now_or_never() {
        Some(read) => read,
        None => timeout(BODY_TIME, reading)
            .await
            .unwrap_or_else(|late| Err(PayloadError::Io(late.into()))),
    };
    let answer = match read {
        Ok(Some(body)) => take(replica, request.headers(), &body).await,
        Ok(None) => replica.dropped(
            "too-large",
            format_args!("the event is larger than {MAX_BODY} bytes"),
        ),
        Err(error) => Answer::Retry {
            reason: error.to_string(),
        },
    };
    HttpResponse::Ok().json(AnswerBody::from(answer))
}

async fn take(replica: &Replica, headers: &HeaderMap, body: &[u8]) -> Answer {
    if let Some(hint) = envelope::plain(headers, body).filter(|hint| replica.follows(hint)) {
        return replica.take(&hint).await;
    }
    match envelope::read(headers, body) {
        Ok(event) => replica.receive(event.data, event.expiration).await,
        Err(poison) => replica.dropped(poison.reason, poison.error),
    }
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
            Answer::Drop { reason, error } => Self::Drop {
                error: format!("{reason}: {error}"),
            },
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

impl Shared {
    /// Whether the caller knows the token, if there is one.
    fn knows(&self, request: &HttpRequest) -> bool {
        let given = request
            .headers()
            .get("dapr-api-token")
            .map(|value| value.as_bytes())
            .unwrap_or_default();
        // The same time wherever the difference is.
        self.token
            .as_ref()
            .is_none_or(|token| token.as_bytes().ct_eq(given).into())
    }
}

/// A sidecar takes the 401 for a passing failure and sends the event again, so that a token that
/// was mistyped costs no event.
fn unauthorized() -> HttpResponse {
    let detail = "The header dapr-api-token must carry the APP_API_TOKEN of this subscriber";
    let problem = Problem::new(contract::ProblemKind::Unauthorized, detail).field("dapr-api-token");
    HttpResponse::Unauthorized()
        .insert_header((CONTENT_TYPE, MEDIA_TYPE))
        .json(problem)
}
