//! The routes that a Dapr sidecar calls, to be mounted in a service that has actix-web already: the
//! subscriptions, and the events.
//!
//! An event is always answered 200: on any other code the sidecar ignores the body and sends the
//! event again, and on 404 it loses the event without a log line. So nothing here uses an extractor
//! that could refuse. The answer is about the event alone; no reader of the configuration and no
//! handler has an influence on it. Source: Dapr pub/sub API reference; requirement A24.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    dev::HttpServiceFactory,
    error::PayloadError,
    http::header::{self, CONTENT_TYPE, HeaderMap, HeaderName, ORIGIN},
    web,
};
use contract::{
    CollectionName, Problem, ProblemKind, canonical,
    document::JSON,
    event::{ROUTE, SUBSCRIBE_ROUTE},
    objects,
    problem::MEDIA_TYPE,
    sidecar::{
        BulkReply, BulkSubscribe, EntryReply, EventReply, EventReplyStatus, Subscription,
        TOKEN_HEADER,
    },
};
use futures_util::{FutureExt, StreamExt, future::join_all};
use serde::Deserialize;
use serde_json::value::RawValue;
use state::SignedChange;
use subtle::ConstantTimeEq;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};
use tracing::Instrument;

use super::{
    EventOutcome, EventSource, Intake,
    cloudevent::{self, CloudEvent, CloudEventError},
    id_only::is_id_only,
    receive::event_span,
};
use crate::{Follow, HeaderValue, Replica, failure_log::LogRate};

/// A browser says which site or origin causes a request.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The answer to an event that succeeded, as [`reply`] gives it: nearly every answer.
const SUCCESS: &str = r#"{"status":"SUCCESS"}"#;
/// Where the routes are.
const PREFIX: &str = "/dapr";
/// Largest event that is read, in bytes: the limit of a sidecar.
pub const MAX_EVENT: usize = 4 * 1024 * 1024;
/// A longer event is large, in bytes.
const LARGE: usize = 64 * 1024;
/// Large events that are read or taken at the same time. A sidecar delivers 10 at a time.
pub(crate) const LARGE_EVENTS: usize = 16;
/// A larger event is read and discarded up to this size, so that its sender gets the answer; beyond
/// it the connection ends.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;

/// How long an event may take to arrive: a sender that hangs must not hold its connection
/// indefinitely.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Entries of a bulk that are taken. A sidecar sends 100 unless its subscription says otherwise.
pub(crate) const MAX_ENTRIES: usize = 1_000;
/// How long the entries of a bulk may take together: a broker delivers again what is not answered in
/// its time (Redis: 15 s).
const BULK_TIME: Duration = Duration::from_secs(10);
/// How long a sidecar that asks for its subscriptions may wait for the first answer of a publisher.
const DISCOVERY_TIME: Duration = Duration::from_secs(5);

/// Options of the routes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the pub/sub component that events come from.
    pub pubsub_name: String,
    /// What callers must send as `dapr-api-token`: the `APP_API_TOKEN` of the sidecar. `None`
    /// takes [`Config::app_token`](crate::Config::app_token), and where that is `None` too, any
    /// caller is accepted.
    pub token: Option<HeaderValue>,
    /// Whether the sidecar posts several events together. It delays a single event, and takes less
    /// processor time for many. `None` = each event is posted at once.
    pub bulk: Option<BulkSubscribe>,
    /// Whether the topics are declared to the sidecar by resources of the kind `Subscription`. It is
    /// told of none then: what an application answers counts before what is declared, and stays until
    /// the sidecar ends.
    pub declared: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pubsub_name: "pubsub-config".to_owned(),
            token: None,
            bulk: None,
            declared: false,
        }
    }
}

/// What the routes share.
struct Shared {
    /// Decides what becomes of each event.
    intake: Arc<Intake>,
    token: Option<HeaderValue>,
    /// Name of the component that is subscribed at.
    pubsub_name: String,
    /// See [`Options::bulk`].
    bulk: Option<BulkSubscribe>,
    /// See [`Options::declared`].
    declared: bool,
}

/// The two routes below `/dapr`, for [`App::service`](actix_web::App::service).
///
/// Events are received only where [`Config::events`](crate::Config::events) is
/// [`Events::Local`](crate::Events::Local), [`Events::Dapr`](crate::Events::Dapr) or
/// [`Events::Posted`](crate::Events::Posted):
/// elsewhere they have another source, and the route for them does not exist. The route for the
/// subscriptions is always there, because a sidecar asks once in its life; it names none then.
pub fn scope(replica: &Replica, options: &Options) -> impl HttpServiceFactory + 'static {
    let config = replica.config();
    // The option wins: it is about the callers of these routes alone.
    let token = options.token.as_ref().or(config.app_token.as_ref());
    let shared = Shared {
        intake: Arc::clone(replica.intake()),
        token: token.cloned(),
        pubsub_name: options.pubsub_name.clone(),
        bulk: options.bulk,
        declared: options.declared,
    };
    let scope = web::scope(PREFIX)
        .app_data(web::Data::new(shared))
        .service(web::resource(below_prefix(SUBSCRIBE_ROUTE)).get(subscribe));
    if config.events.are_posted() {
        scope.service(web::resource(below_prefix(ROUTE)).post(process))
    } else {
        scope
    }
}

/// A route without [`PREFIX`], because the scope adds the prefix.
fn below_prefix(route: &'static str) -> &'static str {
    route.strip_prefix(PREFIX).unwrap_or(route)
}

/// The followed collections. Where a publisher has to be asked for them first, this waits for the
/// answer, or for an image from disk, for at most [`DISCOVERY_TIME`].
async fn topics(intake: &Intake) -> BTreeSet<CollectionName> {
    let known = timeout(DISCOVERY_TIME, intake.cache.until_followed());
    if intake.config.follow == Follow::Served && known.await.is_err() {
        static LINES: LogRate = LogRate::new();
        if let Some(left_out) = LINES.due() {
            tracing::warn!(
                "a sidecar asked for its subscriptions and no publisher has said yet what it \
                 serves: the sidecar subscribes to no topic until it is restarted{left_out}"
            );
        }
    }
    let view = intake.cache.view();
    let followed = view.root().collections().map(|(name, _held)| name.clone());
    followed.collect()
}

/// `GET /dapr/subscribe`: one subscription per collection; none when events are off, have another
/// source, or the topics are declared. A sidecar asks once in its life, so this never fails.
async fn subscribe(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if !shared.authorizes(&request) {
        return unauthorized();
    }
    // With another source each event would come twice. Which topics are declared is not known here, so
    // none is reported as missing.
    if !shared.intake.config.events.are_posted() || shared.declared {
        return HttpResponse::Ok().json(Vec::<Subscription>::new());
    }
    let topics = topics(&shared.intake).await;
    let subscription = |topic| Subscription {
        bulk_subscribe: shared.bulk,
        ..Subscription::new(&shared.pubsub_name, topic)
    };
    let subscriptions: Vec<Subscription> = topics.iter().map(subscription).collect();
    shared.intake.stats.subscribed(topics);
    HttpResponse::Ok().json(subscriptions)
}

/// `POST /dapr/processConfigurationEvents`.
///
/// The answer is 200 with one of the three words of a sidecar, 401 without the token, or 403 for a
/// browser.
async fn process(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> HttpResponse {
    if from_browser(request.headers()) {
        return forbidden();
    }
    if !shared.authorizes(&request) {
        return unauthorized();
    }
    let source = EventSource::Posted(request.peer_addr().map(|peer| peer.ip().to_canonical()));
    let received = receive(&shared.intake, source, request.headers(), payload)
        .instrument(event_span(source))
        .await;
    match received {
        Received::Event(EventOutcome::Success) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, header::HeaderValue::from_static(JSON)))
            .body(SUCCESS),
        Received::Event(outcome) => HttpResponse::Ok().json(reply(outcome)),
        Received::Bulk(statuses) => HttpResponse::Ok().json(BulkReply { statuses }),
    }
}

/// What became of a message.
enum Received {
    /// It was one event.
    Event(EventOutcome),
    /// It was a bulk, with these results of its entries.
    Bulk(Vec<EntryReply>),
}

/// Reads the body of an event, for at most [`BODY_TIME`], and takes the event. A body that breaks
/// off, or finds no place, is worth sending again; one that is too large is not.
async fn receive(
    intake: &Intake,
    source: EventSource,
    headers: &HeaderMap,
    payload: web::Payload,
) -> Received {
    let mut place = None;
    let mut reading = pin!(read(payload, &intake.large_events, &mut place));
    // Most bodies are there with their head, and need no timer.
    let body = match reading.as_mut().now_or_never() {
        Some(body) => body,
        None => timeout(BODY_TIME, reading)
            .await
            .unwrap_or_else(|late| Err(PayloadError::Io(late.into()))),
    };
    Received::Event(match body {
        Ok(Some(body)) => {
            let received = take(intake, source, headers, &body).await;
            if let Received::Event(outcome) = &received {
                intake.report_drop(outcome, &body, None);
            }
            return received;
        }
        Ok(None) => intake.drop_event(
            "too-large",
            format_args!("the event is larger than {MAX_EVENT} bytes"),
        ),
        // Nothing is known about an event that did not arrive whole.
        Err(error) => EventOutcome::Retry {
            reason: error.to_string(),
        },
    })
}

/// Takes the message of an event: by the fast path, else as any CloudEvent.
async fn take(intake: &Intake, source: EventSource, headers: &HeaderMap, body: &[u8]) -> Received {
    // Fast path: an event as sidecars deliver it is parsed in a single pass.
    if let Some(change) = cloudevent::parse_change(headers, body)
        && intake.follows(&change)
    {
        return Received::Event(intake.take_change(source, &change).await);
    }
    if let Some(bulk) = bulk(headers, body) {
        let deadline = Instant::now() + BULK_TIME;
        return Received::Bulk(take_bulk(intake, source, bulk, deadline).await);
    }
    Received::Event(take_event(intake, source, cloudevent::read(headers, body)).await)
}

/// Takes the entries of a bulk until the deadline, at most [`MAX_ENTRIES`]. The others are answered
/// `RETRY`, so that one message costs no more than that.
pub(crate) async fn take_bulk(
    intake: &Intake,
    source: EventSource,
    bulk: Bulk,
    deadline: Instant,
) -> Vec<EntryReply> {
    let taken = bulk.entries.len().min(MAX_ENTRIES);
    let entries = bulk.entries[..taken].iter();
    let entries: Vec<_> = entries
        .map(|entry| ReadEntry::read(intake, entry))
        .collect();
    let mut outcomes = Vec::with_capacity(entries.len());
    // The entries of a topic have an order. Where revisions say it, they are applied as one view.
    let runs = entries.chunk_by(|entry, next| entry.change.is_some() && next.change.is_some());
    for run in runs {
        let taking = run.iter().map(|entry| entry.take(intake, source, deadline));
        outcomes.extend(join_all(taking).await);
    }
    let mut outcomes = outcomes.into_iter();
    let mut left = 0;
    let statuses = bulk.entries.into_iter().map(|BulkEntry { entry_id, .. }| {
        let status = match outcomes.next().flatten() {
            Some(outcome) => reply(outcome).status,
            None => {
                left += 1;
                EventReplyStatus::Retry
            }
        };
        EntryReply { entry_id, status }
    });
    let statuses: Vec<_> = statuses.collect();
    if left > 0 {
        intake.retry_entries(left, statuses.len());
    }
    statuses
}

/// An entry of a bulk, and its change where the fast path can read it.
struct ReadEntry<'a> {
    original: &'a [u8],
    change: Option<SignedChange>,
}

impl<'a> ReadEntry<'a> {
    fn read(intake: &Intake, entry: &'a BulkEntry) -> Self {
        let original = entry.event.as_deref().map_or("null", RawValue::get);
        let original = original.as_bytes();
        let change = cloudevent::parse_delivered(original);
        Self {
            original,
            change: change.filter(|change| intake.follows(change)),
        }
    }

    /// Takes it: by the fast path, else as any CloudEvent. `None` when the deadline was earlier.
    async fn take(
        &self,
        intake: &Intake,
        source: EventSource,
        deadline: Instant,
    ) -> Option<EventOutcome> {
        let taking = async {
            if let Some(change) = &self.change {
                return intake.take_change(source, change).await;
            }
            // One that is nested too deep is no event.
            let value = canonical::value(self.original).unwrap_or_default();
            take_event(intake, source, cloudevent::entry(value)).await
        };
        // `timeout_at` begins also what is too late.
        if Instant::now() >= deadline {
            return None;
        }
        let outcome = timeout_at(deadline, taking).await.ok()?;
        intake.report_drop(&outcome, self.original, None);
        Some(outcome)
    }
}

/// Takes an event that was read, or drops what is none.
async fn take_event(
    intake: &Intake,
    source: EventSource,
    event: Result<CloudEvent, CloudEventError>,
) -> EventOutcome {
    match event {
        Ok(event) => {
            let name = Some(event.name.as_str());
            if is_id_only(&event.data)
                && let Some(topic) = &event.topic
            {
                return intake
                    .take_id_only(topic, event.data, event.expiration, name)
                    .await;
            }
            intake
                .take_named(source, event.data, event.expiration, name)
                .await
        }
        Err(error) => intake.drop_named(error.name.as_deref(), error.reason, error.detail),
    }
}

/// Several events in one message, as a sidecar sends them to a bulk subscription.
#[derive(Deserialize)]
pub(crate) struct Bulk {
    entries: Vec<BulkEntry>,
}

/// One event of a bulk.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BulkEntry {
    entry_id: String,
    /// As it came: only a dropped one is needed as text.
    #[serde(default)]
    event: Option<Box<RawValue>>,
}

/// The bulk that a message is; `None` for every other message.
fn bulk(headers: &HeaderMap, body: &[u8]) -> Option<Bulk> {
    let media_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    // A sidecar sends bulks as plain JSON, and single events as CloudEvents.
    let is_json = media_type
        .split(';')
        .next()
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(JSON));
    if !is_json || headers.contains_key(cloudevent::SPEC_VERSION) {
        return None;
    }
    objects::from_slice(body).ok()
}

/// The outcome in the words of a sidecar. The reason of a retry is in the log only.
fn reply(outcome: EventOutcome) -> EventReply {
    match outcome {
        EventOutcome::Success => EventReply::default(),
        EventOutcome::Retry { .. } => EventReply {
            status: EventReplyStatus::Retry,
            error: None,
        },
        EventOutcome::Drop { reason, error } => EventReply {
            status: EventReplyStatus::Drop,
            error: Some(format!("{reason}: {error}")),
        },
    }
}

/// The body; `None` when it is too large. A large one waits for one of the `places`, and leaves it in
/// `place`.
///
/// # Errors
/// When the connection ends before the body does.
async fn read<'a>(
    mut payload: web::Payload,
    places: &'a Semaphore,
    place: &mut Option<SemaphorePermit<'a>>,
) -> Result<Option<Vec<u8>>, PayloadError> {
    let mut body = Vec::new();
    let mut length = 0;
    while let Some(piece) = payload.next().await {
        let piece = piece?;
        length += piece.len();
        if length > LARGE && place.is_none() {
            // The semaphore is never closed.
            *place = places.acquire().await.ok();
        }
        // Read on and discard: a sender that is cut off gets no answer and sends the event again.
        if length <= MAX_EVENT {
            body.extend_from_slice(&piece);
        } else {
            body = Vec::new();
        }
        // No client sends that much by mistake.
        if length > MAX_DISCARDED {
            break;
        }
    }
    Ok((length <= MAX_EVENT).then_some(body))
}

impl Shared {
    /// Whether the caller sent the token, if there is one.
    /// A request without the header is as one with an empty token.
    fn authorizes(&self, request: &HttpRequest) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let given = request.headers().get(TOKEN_HEADER);
        let given = given.map(|value| value.as_bytes()).unwrap_or_default();
        // In constant time: the duration must not tell where the difference is.
        token.as_bytes().ct_eq(given).into()
    }
}

/// Whether a browser sent the request for a web page: every browser adds `Origin` to a POST. A
/// sidecar and a publisher send neither header. A page must not change what a replica holds, also in
/// a service that mounts these routes and has no guard of its own.
fn from_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.contains_key(FETCH_SITE)
}

/// No event is lost: this is never the answer to a sidecar.
fn forbidden() -> HttpResponse {
    let detail = "Events come from a sidecar or a publisher, and not from a web page";
    let problem = Problem::new(ProblemKind::ForeignOrigin, detail).field("Origin");
    HttpResponse::Forbidden()
        .insert_header((CONTENT_TYPE, MEDIA_TYPE))
        .json(problem)
}

/// Says which values differ, at most once a minute: a sidecar repeats an event without end.
fn warn_of_token() {
    static LINES: LogRate = LogRate::every(Duration::from_secs(60));
    if let Some(left_out) = LINES.due() {
        tracing::warn!(
            "a caller of /dapr/* was refused with 401: its {TOKEN_HEADER} is missing or is not the \
             token of this replica; events do not arrive until APP_API_TOKEN is the same for the \
             replica and for its sidecar or publisher{left_out}"
        );
    }
}

/// A sidecar takes 401 for a failure that may pass and sends the event again, so a mistyped token
/// loses no event.
fn unauthorized() -> HttpResponse {
    warn_of_token();
    let detail =
        format!("The header {TOKEN_HEADER} must carry the APP_API_TOKEN of this subscriber");
    let problem = Problem::new(ProblemKind::Unauthorized, detail).field(TOKEN_HEADER);
    HttpResponse::Unauthorized()
        .insert_header((CONTENT_TYPE, MEDIA_TYPE))
        .json(problem)
}
