//! Bodies of requests: one rule for every route, before any handler runs.
//!
//! A body is limited in bytes and in time, and all bodies under way together are limited in bytes. A
//! body that no handler reads is received all the same, so that no client holds a connection with it.
//! Nothing here interprets a body.
//!
//! The first 64 KiB of a body are free: their number is limited by the number of connections. A
//! longer body then waits for its whole share of the budget, so that the bodies that have one can
//! finish, and has to arrive at a minimum rate while it holds the share.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    sync::Arc,
    time::Duration,
};

use actix_web::{
    Error, FromRequest, HttpMessage, HttpRequest, ResponseError,
    body::{BoxBody, MessageBody, SizedStream},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::header,
    middleware::Next,
    web::{Bytes, BytesMut, Data},
};
use contract::{Problem, ProblemKind};
use futures_util::stream::{StreamExt, once};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::{connections::Connection, problem::ProblemError, routes::ApiRoute};

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
    /// Longest body by the pattern of the path.
    by_pattern: Arc<HashMap<String, usize>>,
    /// Patterns whose handler reads the body itself.
    unread: Arc<[&'static str]>,
    budget: Arc<Semaphore>,
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
#[derive(Debug)]
enum Refusal {
    TooLarge,
    Late,
    Busy,
    Broken(PayloadError),
}

impl Bodies {
    /// For the routes of a table. The handlers of the patterns `unread` read their bodies themselves:
    /// for routes of a library, which has limits of its own.
    pub fn new(limits: BodyLimits, table: &[ApiRoute], unread: &[&'static str]) -> Self {
        let mut by_pattern = HashMap::new();
        for route in table {
            let limit = by_pattern.entry(route.path().to_owned()).or_default();
            *limit = route.limit().max(*limit);
        }
        Self {
            limits,
            by_pattern: Arc::new(by_pattern),
            unread: unread.into(),
            budget: Arc::new(Semaphore::new(limits.budget)),
        }
    }

    /// Reads a body of at most `limit` bytes.
    async fn read(
        &self,
        payload: &mut Payload,
        declared: Option<usize>,
        limit: usize,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
        // Before anything is read.
        if declared.is_some_and(|declared| declared > limit) {
            return Err(Refusal::TooLarge);
        }
        let BodyLimits {
            time,
            free,
            stalled,
            rate,
            ..
        } = self.limits;
        // The wait for a share is no fault of the client, so the time begins again after it.
        let mut begun = Instant::now();
        let mut body = BytesMut::new();
        let mut share = None;
        loop {
            let mut deadline = begun + time;
            if share.is_some() {
                let earned = Duration::from_secs_f64(body.len() as f64 / f64::from(rate));
                deadline = deadline.min(begun + stalled + earned);
            }
            let piece = match timeout_at(deadline, payload.next()).await {
                Ok(Some(piece)) => piece.map_err(Refusal::Broken)?,
                Ok(None) => return Ok((body.freeze(), share)),
                Err(_elapsed) => return Err(Refusal::Late),
            };
            body.extend_from_slice(&piece);
            if body.len() > limit {
                return Err(Refusal::TooLarge);
            }
            if body.len() > free && share.is_none() {
                // The length of a body in chunks is not known before its end.
                share = Some(self.share(declared.unwrap_or(limit)).await?);
                begun = Instant::now();
            }
        }
    }

    /// A share of the budget, when it is free within the time for it.
    async fn share(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let bytes = u32::try_from(bytes.min(self.limits.budget)).map_err(|_more| Refusal::Busy)?;
        let free = self.budget.clone().acquire_many_owned(bytes);
        match timeout(self.limits.wait, free).await {
            Ok(Ok(share)) => Ok(share),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(Refusal::Busy),
        }
    }
}

/// Middleware around all routes: it receives the body of a request, and gives it to the handler as
/// [`Body`].
///
/// # Errors
/// As the inner services.
pub async fn receive(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let headers = request.headers();
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let is_empty = !headers.contains_key(header::TRANSFER_ENCODING) && declared.unwrap_or(0) == 0;
    let Some(bodies) = request.app_data::<Data<Bodies>>().cloned() else {
        return next.call(request).await;
    };
    let pattern = if is_empty {
        None
    } else {
        Some(request.match_pattern().unwrap_or_default())
    };
    let Some(pattern) = pattern.filter(|pattern| !bodies.unread.contains(&pattern.as_str())) else {
        return next.call(request).await;
    };
    let limit = bodies
        .by_pattern
        .get(&pattern)
        .copied()
        .unwrap_or(UNREAD_LIMIT);
    let waiting = request
        .request()
        .conn_data::<Connection>()
        .map(Connection::read_body);
    let mut payload = request.take_payload();
    let read = bodies.read(&mut payload, declared, limit).await;
    drop(waiting);
    match read {
        Ok((body, share)) => {
            request.extensions_mut().insert(Body(body));
            let answer = next.call(request).await;
            // The memory of the body, and of what the handler made of it, is free now.
            drop(share);
            answer
        }
        // The answer keeps the rest of the request until it is sent; then the server closes the
        // connection, and does not wait for the rest.
        Err(refusal) => {
            let problem = bodies.problem(refusal, limit);
            let refusal = problem
                .error_response()
                .map_body(|_head, problem| holding(problem, payload));
            Ok(request.into_response(refusal))
        }
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
                    "The body did not arrive within {} s, or more slowly than {} bytes a second; \
                     nothing was done",
                    self.limits.time.as_secs(),
                    self.limits.rate
                ),
            ),
            Refusal::Busy => (
                ProblemKind::Busy,
                "Too many bytes of request bodies are under way; nothing was done, try again"
                    .to_owned(),
            ),
            Refusal::Broken(error) => return ProblemError::bad_request("body", error),
        };
        Problem::new(kind, detail).into()
    }
}

/// A body of an answer that keeps the rest of the request until it is sent.
fn holding(answer: BoxBody, payload: Payload) -> BoxBody {
    let bytes = answer.try_into_bytes().unwrap_or_default();
    let length = bytes.len() as u64;
    let whole = once(async move { Ok::<_, Error>(bytes) });
    let body = Box::pin(whole.map(move |chunk| {
        let _until_sent = &payload;
        chunk
    }));
    SizedStream::new(length, body).boxed()
}
