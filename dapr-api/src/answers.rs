//! Answers on their way: how many there may be, and how slowly one may be taken.
//!
//! An answer goes out in pieces, each when the reader has taken the one before; until its end it holds its
//! place. A reader that takes nothing for a while loses the answer: it ends with an error. Streams are not
//! for this module: they hold one message and have a limit of their own. Nothing here knows what an answer
//! says.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Body, response::Response};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, interval, timeout},
};

use crate::error::ApiError;

/// Most answers of up to 4 MiB at the same time.
const MAX_ANSWERS: usize = 32;
/// How long a call waits for its place.
const QUEUE: Duration = Duration::from_secs(2);
/// How long a reader may take for one piece.
const STALLED: Duration = Duration::from_secs(20);
/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// The answers on their way. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Answers(Arc<Shared>);

struct Shared {
    stalled: Duration,
    places: Arc<Semaphore>,
    open: Mutex<Vec<Weak<Mutex<Option<Rest>>>>>,
}

/// The place of one answer.
pub(crate) struct Place {
    answers: Answers,
    permit: OwnedSemaphorePermit,
}

/// What is not sent yet of an answer.
struct Rest {
    body: Body,
    data: Bytes,
    /// When the reader took the piece before.
    taken_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self::with_stalled(STALLED)
    }

    fn with_stalled(stalled: Duration) -> Self {
        Self(Arc::new(Shared {
            stalled,
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

    /// Takes away what readers do not take. It never ends.
    ///
    /// From outside, because a body is not asked again before its reader has taken something.
    pub(crate) async fn take_stalled(&self) {
        let mut tick = interval(self.0.stalled / 4);
        loop {
            tick.tick().await;
            let mut open = lock(&self.0.open);
            open.retain(|answer| {
                let Some(answer) = answer.upgrade() else {
                    return false;
                };
                let mut rest = lock(&answer);
                let is_stalled = |rest: &mut Rest| rest.taken_at.elapsed() >= self.0.stalled;
                drop(rest.take_if(is_stalled));
                rest.is_some()
            });
        }
    }
}

impl Place {
    /// The answer, which holds the place until its end.
    pub(crate) fn hold(self, answer: Response) -> Response {
        answer.map(|body| {
            let rest = Arc::new(Mutex::new(Some(Rest {
                body,
                data: Bytes::new(),
                taken_at: Instant::now(),
                _permit: self.permit,
            })));
            let mut open = lock(&self.answers.0.open);
            // Most are gone: there is a place for few only.
            if open.len() >= 2 * MAX_ANSWERS {
                open.retain(|answer| answer.strong_count() > 0);
            }
            open.push(Arc::downgrade(&rest));
            drop(open);
            Body::new(Pieces(rest))
        })
    }
}

/// The body of an answer.
struct Pieces(Arc<Mutex<Option<Rest>>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut rest = lock(&self.0);
        let Some(rest) = rest.as_mut() else {
            let late = io::Error::new(io::ErrorKind::TimedOut, "the reader took nothing");
            return Poll::Ready(Some(Err(late.into())));
        };
        rest.taken_at = Instant::now();
        while rest.data.is_empty() {
            let frame = match ready!(Pin::new(&mut rest.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(data) => rest.data = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = rest.data.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(rest.data.split_to(length)))))
    }

    /// A refusal of gRPC is its head alone. Clients do not take it with an empty body.
    fn is_end_stream(&self) -> bool {
        let rest = lock(&self.0);
        let is_ended = |rest: &Rest| rest.data.is_empty() && rest.body.is_end_stream();
        rest.as_ref().is_some_and(is_ended)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_loses_the_answer_and_its_place() {
        let answers = Answers::with_stalled(Duration::from_millis(20));
        let mut held = Vec::new();
        for _answer in 0..MAX_ANSWERS {
            let place = answers.place().await.expect("a place");
            held.push(place.hold(Response::new(Body::from(vec![0; 2 * PIECE]))));
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
        assert!(lock(&answers.0.open).is_empty());
    }

    #[tokio::test]
    async fn an_answer_arrives_whole_and_then_gives_its_place_back() {
        let answers = Answers::new();
        let body: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let place = answers.place().await.expect("a place");
        let answer = place.hold(Response::new(Body::from(body.clone())));
        assert_eq!(answers.0.places.available_permits(), MAX_ANSWERS - 1);
        let got = answer.into_body().collect().await.expect("whole");
        assert_eq!(got.to_bytes(), body);
        assert_eq!(answers.0.places.available_permits(), MAX_ANSWERS);
    }
}
