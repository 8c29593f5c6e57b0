//! Answers and streams on their way: how many answers there may be, and how slowly one may be taken.
//!
//! Both go out in pieces, each when the reader has taken the one before; an answer holds its place until
//! its end. A reader that takes nothing for a while, or less than 256 KiB/s over it, loses what it reads:
//! an answer ends with an error, a stream with `RESOURCE_EXHAUSTED`. A reader that does not take this end either loses its connection,
//! and the last piece with it. Nothing here knows what an answer says.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Body, response::Response};
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as _, Frame};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{budget::Budget, error::ApiError};

/// Most answers of up to 4 MiB at the same time.
const MAX_ANSWERS: usize = 32;
/// How long a call waits for its place.
const QUEUE: Duration = Duration::from_secs(2);
/// How long a reader may stall during one answer,
const STALLED: Duration = Duration::from_secs(20);
/// and during one message of a stream: an application may be busy with the change before.
const STREAM_STALLED: Duration = Duration::from_secs(60);
/// It has less while another subscription waits for memory.
const SHORT_STALLED: Duration = Duration::from_secs(5);
/// Bytes per second that a reader takes besides.
const RATE: usize = 256 << 10;
/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// The answers and streams on their way. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Answers(Arc<Shared>);

struct Shared {
    stalled: Duration,
    stream_stalled: Duration,
    /// Of the messages in streams.
    budget: Budget,
    places: Arc<Semaphore>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    by_id: HashMap<u64, Arc<OnItsWay>>,
}

/// The place of one answer.
pub(crate) struct Place {
    answers: Answers,
    permit: OwnedSemaphorePermit,
}

/// One answer or stream.
struct OnItsWay {
    kind: Kind,
    /// Cancelled to end the connection of its reader.
    connection: CancellationToken,
    state: Mutex<State>,
}

enum Kind {
    Answer,
    Stream,
}

impl Kind {
    fn stalled(&self, shared: &Shared) -> Duration {
        match self {
            Self::Answer => shared.stalled,
            Self::Stream => shared.stream_stalled,
        }
    }
}

enum State {
    Open(Rest),
    /// It was taken away from a reader that took nothing, at this time.
    Ended(Instant),
}

/// What is not sent yet.
struct Rest {
    body: Body,
    data: Bytes,
    /// Since when the reader could take something; `None` while there is nothing.
    waits_since: Option<Instant>,
    /// How long it could before, during the same answer or message,
    waited: Duration,
    /// and the bytes that it was given meanwhile.
    given: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Answers {
    /// None yet. Streams send messages of this budget.
    pub(crate) fn new(budget: Budget) -> Self {
        Self::with_stalled(STALLED, STREAM_STALLED, budget)
    }

    fn with_stalled(stalled: Duration, stream_stalled: Duration, budget: Budget) -> Self {
        Self(Arc::new(Shared {
            stalled,
            stream_stalled,
            budget,
            places: Arc::new(Semaphore::new(MAX_ANSWERS)),
            open: Mutex::default(),
        }))
    }

    /// A place, as soon as there is one.
    pub(crate) async fn place(&self) -> Result<Place, ApiError> {
        let permit = timeout(QUEUE, Arc::clone(&self.0.places).acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok);
        let place = permit.map(|permit| Place {
            answers: self.clone(),
            permit,
        });
        place.ok_or_else(|| {
            let reason = format!("{MAX_ANSWERS} answers are under way; try again");
            ApiError::Busy(reason)
        })
    }

    /// The stream of a subscription, which has a limit of its own, on a connection.
    pub(crate) fn stream(&self, answer: Response, connection: CancellationToken) -> Response {
        self.send(answer, Kind::Stream, None, connection)
    }

    fn send(
        &self,
        answer: Response,
        kind: Kind,
        permit: Option<OwnedSemaphorePermit>,
        connection: CancellationToken,
    ) -> Response {
        answer.map(|body| {
            let one = Arc::new(OnItsWay {
                kind,
                connection,
                state: Mutex::new(State::Open(Rest {
                    body,
                    data: Bytes::new(),
                    waits_since: Some(Instant::now()),
                    waited: Duration::ZERO,
                    given: 0,
                    _permit: permit,
                })),
            });
            let mut open = lock(&self.0.open);
            let id = open.next_id;
            open.next_id += 1;
            open.by_id.insert(id, Arc::clone(&one));
            drop(open);
            Body::new(Pieces {
                id,
                one,
                answers: self.clone(),
            })
        })
    }

    /// Takes away what readers do not take. It never ends.
    ///
    /// From outside, because a body is not asked again before its reader has taken something.
    pub(crate) async fn take_stalled(&self) {
        let mut tick = interval(self.0.stalled.min(self.0.stream_stalled) / 4);
        loop {
            tick.tick().await;
            let is_short = self.0.budget.is_short();
            let all: Vec<_> = lock(&self.0.open).by_id.values().cloned().collect();
            for one in all {
                let stalled = match one.kind {
                    Kind::Stream if is_short => self.0.stream_stalled.min(SHORT_STALLED),
                    Kind::Answer | Kind::Stream => one.kind.stalled(&self.0),
                };
                let mut state = lock(&one.state);
                match &*state {
                    State::Open(rest) if rest.is_late(stalled) => {
                        *state = State::Ended(Instant::now());
                    }
                    // Its memory is free already, so the time is not shorter while others wait.
                    State::Ended(at) if at.elapsed() >= one.kind.stalled(&self.0) => {
                        one.connection.cancel();
                    }
                    State::Open(_) | State::Ended(_) => {}
                }
            }
        }
    }
}

impl Place {
    /// The answer on a connection, which holds the place until its end.
    pub(crate) fn hold(self, answer: Response, connection: CancellationToken) -> Response {
        let Self { answers, permit } = self;
        answers.send(answer, Kind::Answer, Some(permit), connection)
    }
}

/// The body of an answer or stream.
struct Pieces {
    id: u64,
    one: Arc<OnItsWay>,
    answers: Answers,
}

impl Drop for Pieces {
    fn drop(&mut self) {
        lock(&self.answers.0.open).by_id.remove(&self.id);
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *lock(&self.one.state) {
            State::Open(rest) => rest.poll_piece(context),
            State::Ended(_at) => Poll::Ready(Some(end(&self.one.kind))),
        }
    }

    /// A refusal of gRPC is its head alone. Clients do not take it with an empty body.
    fn is_end_stream(&self) -> bool {
        match &*lock(&self.one.state) {
            State::Open(rest) => rest.data.is_empty() && rest.body.is_end_stream(),
            State::Ended(_at) => false,
        }
    }
}

impl Rest {
    /// Whether its reader has taken too little for too long.
    fn is_late(&self, stalled: Duration) -> bool {
        let allowed = stalled + Duration::from_secs_f64(self.given as f64 / RATE as f64);
        (self.waits_since).is_some_and(|since| self.waited + since.elapsed() >= allowed)
    }

    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // Until there is a piece the reader waits, and not we for it.
        self.waited += self
            .waits_since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed());
        while self.data.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(data) => {
                    self.data = data;
                    // Another message of a stream; an answer has one.
                    self.waited = Duration::ZERO;
                    self.given = 0;
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        self.waits_since = Some(Instant::now());
        let length = self.data.len().min(PIECE);
        self.given += length;
        Poll::Ready(Some(Ok(Frame::data(self.data.split_to(length)))))
    }
}

/// The end of what was taken away, for a reader that reads again.
fn end(kind: &Kind) -> Result<Frame<Bytes>, BoxError> {
    match kind {
        Kind::Answer => {
            let late = io::Error::new(io::ErrorKind::TimedOut, "the reader took nothing");
            Err(late.into())
        }
        Kind::Stream => {
            let status = Status::resource_exhausted(format!(
                "the reader of the subscription took nothing for {} s, or for {} s while others waited for \
                 memory; subscribe again",
                STREAM_STALLED.as_secs(),
                SHORT_STALLED.as_secs()
            ));
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            Ok(Frame::trailers(trailers))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn answers() -> Answers {
        let stalled = Duration::from_millis(20);
        Answers::with_stalled(stalled, stalled, Budget::new(1))
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_loses_the_answer_and_its_place() {
        let answers = answers();
        let mut held = Vec::new();
        for _answer in 0..MAX_ANSWERS {
            let place = answers.place().await.expect("a place");
            let answer = Response::new(Body::from(vec![0; 2 * PIECE]));
            held.push(place.hold(answer, CancellationToken::new()));
        }
        assert_eq!(answers.0.places.available_permits(), 0);
        let mut first = held.remove(0).into_body();
        let piece = first.frame().await.expect("a piece").expect("no error");
        assert_eq!(piece.into_data().expect("data").len(), PIECE);
        let all_free = async {
            let mut places = Vec::new();
            for _place in 0..MAX_ANSWERS {
                places.push(answers.place().await.expect("a place"));
            }
        };
        tokio::select! {
            () = answers.take_stalled() => {}
            () = all_free => {}
        }
        first
            .frame()
            .await
            .expect("an end")
            .expect_err("it was cut");
        drop((first, held));
        assert!(lock(&answers.0.open).by_id.is_empty());
    }

    /// Each piece is taken in time, and all of them too slowly.
    #[test]
    fn a_reader_that_takes_a_piece_now_and_then_is_late() {
        let mut rest = Rest {
            body: Body::from(vec![0; 100 * PIECE]),
            data: Bytes::new(),
            waits_since: Some(Instant::now()),
            waited: Duration::ZERO,
            given: 0,
            _permit: None,
        };
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut pieces = 0;
        while !rest.is_late(STALLED) {
            assert!(rest.poll_piece(&mut context).is_ready());
            pieces += 1;
            rest.waits_since = Instant::now().checked_sub(STALLED * 3 / 4);
        }
        assert_eq!(pieces, 2);
    }

    #[tokio::test]
    async fn an_answer_arrives_whole_and_then_gives_its_place_back() {
        let answers = answers();
        let body: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let place = answers.place().await.expect("a place");
        let answer = Response::new(Body::from(body.clone()));
        let answer = place.hold(answer, CancellationToken::new());
        assert_eq!(answers.0.places.available_permits(), MAX_ANSWERS - 1);
        let got = answer.into_body().collect().await.expect("whole");
        assert_eq!(got.to_bytes(), body);
        assert_eq!(answers.0.places.available_permits(), MAX_ANSWERS);
    }

    /// A stream with these pieces, then without any.
    fn stream(pieces: usize) -> Response {
        let pieces = (0..pieces).map(|_piece| Ok::<_, BoxError>(vec![0; PIECE]));
        let pieces = futures_util::stream::iter(pieces);
        let silence = futures_util::stream::pending();
        let stream = futures_util::StreamExt::chain(pieces, silence);
        Response::new(Body::from_stream(stream))
    }

    #[tokio::test]
    async fn a_stream_that_is_not_taken_ends_with_a_reason_and_then_its_connection() {
        let answers = answers();
        let (connection, silent) = (CancellationToken::new(), CancellationToken::new());
        let mut quiet = answers
            .stream(stream(0), CancellationToken::new())
            .into_body();
        let waits = quiet.frame();
        let mut waits = std::pin::pin!(waits);
        assert!(futures_util::FutureExt::now_or_never(waits.as_mut()).is_none());
        let mut read_again = answers.stream(stream(2), connection.clone()).into_body();
        let _never_read = answers.stream(stream(2), silent.clone());
        let piece = read_again
            .frame()
            .await
            .expect("a piece")
            .expect("no error");
        assert_eq!(piece.into_data().expect("data").len(), PIECE);
        let ended = async {
            loop {
                let all: Vec<_> = lock(&answers.0.open).by_id.values().cloned().collect();
                let is_ended = |one: &Arc<OnItsWay>| matches!(*lock(&one.state), State::Ended(_));
                if all.iter().filter(|one| is_ended(one)).count() == 2 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = answers.take_stalled() => {}
            () = ended => {}
        }
        let end = read_again.frame().await.expect("an end").expect("no error");
        let trailers = end.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "8");
        drop(read_again);
        tokio::select! {
            () = answers.take_stalled() => {}
            () = silent.cancelled() => {}
        }
        assert!(!connection.is_cancelled(), "it read its end");
        assert!(
            futures_util::FutureExt::now_or_never(waits).is_none(),
            "a reader that waits for a change is not late"
        );
    }
}
