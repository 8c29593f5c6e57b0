//! Bodies of requests: one rule for every route, before any handler runs.
//!
//! A body is limited in bytes and in time, and all bodies under way together are limited in bytes. A
//! body that no handler reads is received all the same, so that no client holds a connection with it.
//! Nothing here interprets a body.
//!
//! The first 64 KiB of a body are free: their number is limited by the number of connections. A
//! longer body then waits for its whole share of the budget, so that the bodies that have one can
//! finish, and has to arrive at a minimum rate while it holds the share. The bodies of one caller have
//! at most half of the budget. A handler that reads its
//! body itself reads it through the same rule (`Arrival`), and sees a refusal as a body that broke
//! off.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_web::{
    Error, FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError,
    body::{BoxBody, MessageBody, SizedStream},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::Method,
    middleware::Next,
    web::{Bytes, BytesMut, Data},
};
use contract::{
    Problem, ProblemKind,
    access::{Identity, routes::Access},
};
use futures_util::stream::{StreamExt, once, unfold};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

mod budget;

use self::budget::{Budget, Share};
use super::{
    connections::{Connection, ReadingBody, incoming::BodyLength},
    limits::{BODIES_BYTES, BODY_SECONDS},
    problem::ProblemError,
    rate,
    routes::{ApiRoute, pattern},
    rules::check_access,
};

/// Longest body of a route that does not say otherwise, in bytes. Its handler reads none.
pub const UNREAD_LIMIT: usize = 64 << 10;

/// Limits of all bodies together.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// How long a whole body may take to arrive.
    pub time: Duration,
    /// Bytes of each body that are not counted.
    pub free: usize,
    /// Bytes of all bodies under way, without the free ones. At least as long as the longest body.
    pub budget: usize,
    /// How long a body waits for its share of the budget.
    pub wait: Duration,
    /// How far a body with a share may fall behind [`Self::rate`], in time.
    pub stalled: Duration,
    /// Bytes per second of a body with a share, on average.
    pub rate: u32,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(10),
            free: 64 << 10,
            budget: 64 << 20,
            wait: Duration::from_secs(2),
            stalled: Duration::from_secs(2),
            rate: 1 << 20,
        }
    }
}

/// Receives the bodies of a service. Cloning shares the budget.
#[derive(Debug, Clone)]
pub struct Bodies {
    limits: BodyLimits,
    /// The routes by the pattern of their path.
    by_pattern: Arc<HashMap<String, PathRoutes>>,
    budget: Arc<Budget>,
}

/// What is known of the routes of one path.
#[derive(Debug, Default)]
struct PathRoutes {
    /// Longest body, in bytes.
    limit: usize,
    /// Whether the handler reads the body itself.
    is_streamed: bool,
    access: Vec<(Method, Access)>,
}

/// The body of a request, as a handler gets it; empty when there is none.
#[derive(Debug, Clone, Default)]
pub struct Body(pub Bytes);

impl FromRequest for Body {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let body = request.extensions().get::<Self>().cloned();
        ready(Ok(body.unwrap_or_default()))
    }
}

/// Why a body is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it is too large")]
    TooLarge,
    #[error("it did not arrive in time")]
    Late,
    #[error("too many bytes of request bodies are under way")]
    Busy,
    #[error(transparent)]
    Broken(PayloadError),
}

impl Bodies {
    /// For the routes of a table. The handlers of the patterns `streamed` read their bodies
    /// themselves, and decide about the length: for routes of a library. The limit of such a route
    /// is what its handler keeps of a body at most.
    pub fn new(limits: BodyLimits, table: &[ApiRoute], streamed: &[&'static str]) -> Self {
        let mut by_pattern = HashMap::new();
        for route in table {
            let routes: &mut PathRoutes = by_pattern.entry(route.path().to_owned()).or_default();
            routes.limit = route.limit().max(routes.limit);
            let access = (route.method().clone(), route.access().access);
            routes.access.push(access);
            routes.is_streamed = streamed.contains(&route.path());
        }
        Self {
            limits,
            by_pattern: Arc::new(by_pattern),
            budget: Arc::new(Budget::new(limits.budget)),
        }
    }

    /// The routes of the path of a request, and their pattern.
    fn routes(&self, request: &ServiceRequest) -> Option<(&String, &PathRoutes)> {
        // A path without parameters is its own pattern, and need not be looked for by the router.
        let known = self.by_pattern.get_key_value(request.path());
        known.or_else(|| self.by_pattern.get_key_value(&*pattern(request.request())?))
    }
}

impl PathRoutes {
    /// Whether the caller may send the request, as far as the path tells.
    ///
    /// # Errors
    /// 403 `forbidden`.
    fn check(&self, pattern: &str, request: &HttpRequest) -> Result<(), ProblemError> {
        let access = self.access.iter();
        let mut access = access.filter(|(method, _access)| method == request.method());
        // Decoded as the router decodes it.
        let path = request.match_info().as_str();
        access.try_for_each(|(_method, access)| {
            check_access(*access, request, |name| parameter(pattern, path, name))
        })
    }
}

/// A parameter of a path, before the router knows it.
fn parameter<'a>(pattern: &str, path: &'a str, name: &str) -> Option<&'a str> {
    let mut parts = pattern.split('/').zip(path.split('/'));
    let found = parts.find(|(part, _value)| {
        let part = part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'));
        part == Some(name)
    });
    found.map(|(_part, value)| value)
}

/// A body that arrives. It holds its share of the budget until it is dropped.
struct Arrival {
    bodies: Data<Bodies>,
    payload: Payload,
    /// In bytes; `None` for a body in chunks.
    declared: Option<usize>,
    /// What is kept of the body at most, in bytes.
    limit: usize,
    begun: Instant,
    length: usize,
    share: Option<Share>,
    /// Whose body it is; `None` for a caller without a credential.
    caller: Option<Arc<str>>,
    /// Until the body has arrived.
    reading: Option<ReadingBody>,
    refused: bool,
}

impl Arrival {
    /// The next piece; `None` after the last one. After an error there is none.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let piece = self.piece().await;
        if !matches!(piece, Ok(Some(_))) {
            self.reading = None;
        }
        self.refused |= piece.is_err();
        piece
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Refusal> {
        let BodyLimits {
            time,
            free,
            stalled,
            rate,
            ..
        } = self.bodies.limits;
        let mut deadline = self.begun + time;
        if self.share.is_some() {
            let earned = Duration::from_secs_f64(self.length as f64 / f64::from(rate));
            deadline = deadline.min(self.begun + stalled + earned);
        }
        let piece = match timeout_at(deadline, self.payload.next()).await {
            Ok(Some(piece)) => piece.map_err(Refusal::Broken)?,
            Ok(None) => return Ok(None),
            Err(_elapsed) => return Err(Refusal::Late),
        };
        self.length += piece.len();
        if self.length > free && self.share.is_none() {
            // The length of a body in chunks is not known before its end.
            let share = self.declared.unwrap_or(self.limit).min(self.limit);
            let Bodies { budget, limits, .. } = &**self.bodies;
            let share = budget.share(share, self.caller.as_ref(), limits.wait).await;
            self.share = Some(share.ok_or(Refusal::Busy)?);
            // The wait for a share is no fault of the client.
            self.begun = Instant::now();
        }
        Ok(Some(piece))
    }

    /// The whole body.
    async fn whole(&mut self) -> Result<Bytes, Refusal> {
        // Before anything is read.
        if self.declared.is_some_and(|declared| declared > self.limit) {
            return Err(Refusal::TooLarge);
        }
        let mut body = BytesMut::new();
        while let Some(piece) = self.next().await? {
            body.extend_from_slice(&piece);
            if body.len() > self.limit {
                return Err(Refusal::TooLarge);
            }
        }
        Ok(body.freeze())
    }
}

/// The answer to a request that is refused before its body was received. A short body is received all
/// the same, so that the connection can be used again; of a longer one nothing is read. No refused
/// request gets a share of the budget.
pub(super) async fn refuse(
    mut request: ServiceRequest,
    answer: HttpResponse,
) -> ServiceResponse<BoxBody> {
    let length = BodyLength::of(request.headers());
    let bodies = request.app_data::<Data<Bodies>>().cloned();
    let Some(bodies) = bodies.filter(|_bodies| length != BodyLength::Known(0)) else {
        return request.into_response(answer);
    };
    let limit = UNREAD_LIMIT.min(bodies.limits.free);
    let declared = match length {
        BodyLength::Known(length) => usize::try_from(length).unwrap_or(usize::MAX),
        BodyLength::Chunked => usize::MAX,
    };
    let connection = request.request().conn_data::<Connection>();
    let mut arrival = Arrival {
        bodies,
        declared: Some(declared),
        limit,
        begun: Instant::now(),
        length: 0,
        share: None,
        caller: None,
        reading: connection.map(Connection::read_body),
        refused: false,
        payload: request.take_payload(),
    };
    match arrival.whole().await {
        Ok(_unused) => request.into_response(answer),
        Err(_refusal) => {
            request.into_response(answer.map_body(|_head, body| holding(body, arrival)))
        }
    }
}

/// Middleware around all routes: it receives the body of a request, and gives it to the handler as
/// [`Body`]. A caller that may not send the request, or sends more than its rate allows, is refused
/// before anything of it is read. Both are decided here, because each layer costs every request.
///
/// # Errors
/// As the inner services.
pub async fn receive(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if let Err(exceeded) = rate::check(&request) {
        return Ok(refuse(request, exceeded.response()).await);
    }
    let declared = match BodyLength::of(request.headers()) {
        BodyLength::Known(length) => Some(usize::try_from(length).unwrap_or(usize::MAX)),
        BodyLength::Chunked => None,
    };
    let bodies = request.app_data::<Data<Bodies>>().cloned();
    let Some(bodies) = bodies.filter(|_bodies| declared != Some(0)) else {
        return next.call(request).await;
    };
    let routes = bodies.routes(&request);
    let checked = routes.map(|(pattern, routes)| routes.check(pattern, request.request()));
    if let Some(Err(refused)) = checked {
        return Ok(refuse(request, refused.error_response()).await);
    }
    let limit = routes.map(|(_pattern, routes)| routes.limit);
    let is_streamed = routes.is_some_and(|(_pattern, routes)| routes.is_streamed);
    let caller = request.extensions().get::<Identity>().cloned();
    // Without a credential all callers have one name.
    let caller = caller.filter(|caller| !caller.is_anonymous());
    let caller = caller.map(|caller| caller.name);
    let connection = request.request().conn_data::<Connection>();
    let mut arrival = Arrival {
        bodies,
        declared,
        limit: limit.unwrap_or(UNREAD_LIMIT),
        begun: Instant::now(),
        length: 0,
        share: None,
        caller,
        reading: connection.map(Connection::read_body),
        refused: false,
        payload: request.take_payload(),
    };
    if is_streamed {
        return answer_while_read(arrival, request, next).await;
    }
    match arrival.whole().await {
        Ok(body) => {
            request.extensions_mut().insert(Body(body));
            let answer = next.call(request).await;
            // The memory of the body, and of what the handler made of it, is free now.
            drop(arrival);
            answer
        }
        Err(refusal) => {
            let refusal = arrival.bodies.problem(refusal, arrival.limit);
            let answer = refusal.error_response();
            Ok(request.into_response(answer.map_body(|_head, body| holding(body, arrival))))
        }
    }
}

/// Gives a body to a handler that reads it itself.
async fn answer_while_read(
    arrival: Arrival,
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    // The handler drops what it reads before it ends; the share is held until it has ended.
    let arrival = Rc::new(Mutex::new(arrival));
    let pieces = unfold(Rc::clone(&arrival), async |arrival| {
        let piece = arrival.lock().await.next().await.transpose()?;
        Some((piece.map_err(broken_off), arrival))
    });
    request.set_payload(Payload::Stream {
        payload: Box::pin(pieces),
    });
    let answer = next.call(request).await?;
    Ok(match Rc::into_inner(arrival).map(Mutex::into_inner) {
        Some(arrival) if arrival.refused => answer.map_body(|_head, body| holding(body, arrival)),
        _whole_or_still_read => answer,
    })
}

/// A refusal for a handler that reads its body itself.
fn broken_off(refusal: Refusal) -> PayloadError {
    match refusal {
        Refusal::Broken(error) => error,
        other => PayloadError::Io(io::Error::other(other)),
    }
}

impl Bodies {
    fn problem(&self, refusal: Refusal, limit: usize) -> ProblemError {
        let (kind, detail) = match refusal {
            Refusal::TooLarge => (
                ProblemKind::TooLarge,
                format!("The body is larger than {limit} bytes"),
            ),
            Refusal::Late => (
                ProblemKind::BodyLate,
                format!(
                    "The body did not arrive within {} s ({BODY_SECONDS}), or arrived more slowly than \
                     {} bytes a second; nothing was done",
                    self.limits.time.as_secs(),
                    self.limits.rate
                ),
            ),
            Refusal::Busy => (
                ProblemKind::Busy,
                format!(
                    "More bytes of request bodies are under way than {BODIES_BYTES} allows; nothing \
                     was done, try again"
                ),
            ),
            Refusal::Broken(error) => return ProblemError::bad_request("body", error),
        };
        Problem::new(kind, detail).into()
    }
}

/// A body of an answer that keeps the rest of the request until it is sent. Then the server closes
/// the connection, and does not wait for the rest.
fn holding(answer: BoxBody, mut arrival: Arrival) -> BoxBody {
    // Its bytes are free at once.
    arrival.share = None;
    arrival.reading = None;
    let bytes = answer.try_into_bytes().unwrap_or_default();
    let length = bytes.len() as u64;
    let whole = once(async move { Ok::<_, Error>(bytes) });
    let body = Box::pin(whole.map(move |chunk| {
        let _until_sent = &arrival;
        chunk
    }));
    SizedStream::new(length, body).boxed()
}
