//! Long answers that are the same for several readers: the text is made once, piece by piece, and
//! each reader takes the pieces at its own speed.
//!
//! A piece is made when the first reader needs it, by all that need it: a reader that ends leaves
//! the work to the others. A text is there while it has a reader. All texts together keep at most
//! the bytes of one limit: above it the oldest pieces go, a text without its first piece takes no
//! new reader, and a reader that still needed a piece that is gone is cut off. So a reader that
//! stalls costs the others nothing. Nothing here knows what a text is of.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, Stream, StreamExt as _,
    future::{BoxFuture, Shared},
    stream::{self, BoxStream},
};
use tokio::time::Instant;

/// Longest time of one answer, however fast its reader is.
const LONGEST: Duration = Duration::from_secs(600);

/// The texts that are being read, each under the key that says what it is of.
#[derive(Debug)]
pub struct SharedTexts<K> {
    begun: Mutex<Vec<(K, Weak<Text>)>>,
    beginning: tokio::sync::Mutex<()>,
    kept: Arc<Kept>,
}

/// Bytes of all texts.
#[derive(Debug)]
struct Kept {
    bytes: AtomicUsize,
    max: usize,
}

/// One text.
#[derive(Debug)]
struct Text {
    state: Mutex<State>,
    kept: Arc<Kept>,
}

#[derive(Debug)]
struct State {
    /// The number of pieces that are gone.
    gone: usize,
    pieces: VecDeque<Bytes>,
    /// What makes the next piece. It is done when the piece, or the end, is in the state.
    making: Making,
    /// Set after the last piece.
    ended: Option<Ended>,
}

type Making = Shared<BoxFuture<'static, ()>>;

/// How a text ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    Whole,
    /// The source failed.
    Failed(io::ErrorKind),
}

/// Why a reader is cut off.
#[derive(Debug, thiserror::Error)]
enum CutOff {
    #[error(
        "the reader is too slow: pieces that it needs were dropped, because all texts together \
             are larger than their limit"
    )]
    TooSlow,
    #[error("the answer took longer than {} s", LONGEST.as_secs())]
    TooLong,
}

impl<K: PartialEq> SharedTexts<K> {
    /// Texts that together keep at most `max` bytes, and one piece each besides.
    pub fn new(max: usize) -> Self {
        Self {
            begun: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            kept: Arc::new(Kept {
                bytes: AtomicUsize::new(0),
                max,
            }),
        }
    }

    /// To be held while a text begins, and until then: who waited for it looks with
    /// [`Self::join`] for the text that another began meanwhile.
    pub async fn begin_alone(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.beginning.lock().await
    }

    /// A reader of the text with this key, from its beginning; `None` when none has begun, or its
    /// first piece is gone.
    pub fn join(&self, key: &K) -> Option<impl Stream<Item = io::Result<Bytes>> + Send + use<K>> {
        let mut begun = lock(&self.begun);
        begun.retain(|(_key, text)| text.strong_count() > 0);
        let text = begun.iter().find(|(of, _text)| of == key)?.1.upgrade()?;
        let is_whole = lock(&text.state).gone == 0;
        is_whole.then(|| text.read())
    }

    /// Begins a text that others can join, and reads it.
    pub fn begin(
        &self,
        key: K,
        source: BoxStream<'static, io::Result<Bytes>>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<K> {
        let text = Arc::new_cyclic(|text| Text {
            state: Mutex::new(State {
                gone: 0,
                pieces: VecDeque::new(),
                making: make(text.clone(), source),
                ended: None,
            }),
            kept: Arc::clone(&self.kept),
        });
        let mut begun = lock(&self.begun);
        begun.retain(|(of, text)| *of != key && text.strong_count() > 0);
        begun.push((key, Arc::downgrade(&text)));
        text.read()
    }
}

/// Makes the next piece of a text, and puts it there with what makes the one after it. Without a
/// reader there is no text any more, and nothing is made.
fn make(text: Weak<Text>, mut source: BoxStream<'static, io::Result<Bytes>>) -> Making {
    let making = async move {
        let piece = source.next().await;
        let Some(text) = text.upgrade() else {
            return;
        };
        let mut state = lock(&text.state);
        match piece {
            Some(Ok(piece)) => {
                state.keep(piece, &text.kept);
                state.making = make(Arc::downgrade(&text), source);
            }
            Some(Err(error)) => state.ended = Some(Ended::Failed(error.kind())),
            None => state.ended = Some(Ended::Whole),
        }
    };
    making.boxed().shared()
}

impl State {
    fn keep(&mut self, piece: Bytes, kept: &Kept) {
        kept.bytes.fetch_add(piece.len(), Relaxed);
        self.pieces.push_back(piece);
        while self.pieces.len() > 1 && kept.bytes.load(Relaxed) > kept.max {
            if let Some(oldest) = self.pieces.pop_front() {
                kept.bytes.fetch_sub(oldest.len(), Relaxed);
                self.gone += 1;
            }
        }
    }
}

impl Text {
    /// All pieces from the first.
    fn read(self: Arc<Self>) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let until = Instant::now() + LONGEST;
        stream::try_unfold((self, 0, until), async |(text, number, until)| {
            if Instant::now() >= until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, CutOff::TooLong));
            }
            let piece = text.piece(number).await?;
            Ok(piece.map(|piece| (piece, (text, number + 1, until))))
        })
    }

    /// A piece; `None` after the last.
    async fn piece(&self, number: usize) -> io::Result<Option<Bytes>> {
        loop {
            let making = {
                let state = lock(&self.state);
                let Some(place) = number.checked_sub(state.gone) else {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, CutOff::TooSlow));
                };
                match (state.pieces.get(place), state.ended) {
                    (Some(piece), _) => return Ok(Some(piece.clone())),
                    (None, Some(Ended::Whole)) => return Ok(None),
                    (None, Some(Ended::Failed(kind))) => return Err(kind.into()),
                    (None, None) => state.making.clone(),
                }
            };
            making.await;
        }
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let bytes = state.pieces.iter().map(Bytes::len).sum();
        self.kept.bytes.fetch_sub(bytes, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds the lock leaves the state half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    /// A source of numbered pieces of 10 bytes, and the number of pieces that were made.
    fn numbers(count: usize) -> (Arc<AtomicUsize>, BoxStream<'static, io::Result<Bytes>>) {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let pieces = stream::iter(0..count).then(move |number| {
            let counted = Arc::clone(&counted);
            async move {
                // Each piece takes a while, so that readers meet.
                tokio::task::yield_now().await;
                counted.fetch_add(1, Relaxed);
                Ok(Bytes::from(format!("{number:09}\n")))
            }
        });
        (made, pieces.boxed())
    }

    async fn whole(reader: impl Stream<Item = io::Result<Bytes>>) -> io::Result<Vec<u8>> {
        reader
            .try_fold(Vec::new(), async |mut text, piece| {
                text.extend_from_slice(&piece);
                Ok(text)
            })
            .await
    }

    #[tokio::test]
    async fn readers_of_the_same_key_read_the_same_text_and_it_is_made_once() -> io::Result<()> {
        let texts = SharedTexts::new(1 << 20);
        assert!(texts.join(&7).is_none(), "nothing has begun");
        let (made, source) = numbers(100);
        let first = texts.begin(7, source);
        let others: Vec<_> = (0..99)
            .map(|_each| texts.join(&7).expect("it has begun"))
            .collect();
        assert!(texts.join(&8).is_none(), "another key");
        let read = futures_util::future::try_join_all(others.into_iter().map(whole));
        let (first, others) = tokio::try_join!(whole(first), read)?;
        assert_eq!(first.len(), 1_000);
        assert!(others.iter().all(|other| *other == first));
        assert_eq!(made.load(Relaxed), 100);
        assert_eq!(
            texts.kept.bytes.load(Relaxed),
            0,
            "it is gone with its readers"
        );
        assert!(texts.join(&7).is_none());
        Ok(())
    }

    #[tokio::test]
    async fn a_reader_that_ends_leaves_the_rest_to_the_others() -> io::Result<()> {
        let texts = SharedTexts::new(1 << 20);
        let (made, source) = numbers(100);
        let mut first = Box::pin(texts.begin(7, source));
        let second = texts.join(&7).expect("it has begun");
        first.try_next().await?;
        // In the middle of a piece.
        assert!(first.try_next().now_or_never().is_none());
        drop(first);
        assert_eq!(whole(second).await?.len(), 1_000);
        assert_eq!(made.load(Relaxed), 100);
        Ok(())
    }

    #[tokio::test]
    async fn a_reader_that_stalls_is_cut_off_and_costs_the_others_nothing() -> io::Result<()> {
        let texts = SharedTexts::new(100);
        let (_made, source) = numbers(100);
        let first = texts.begin(7, source);
        let mut stalled = Box::pin(texts.join(&7).expect("it has begun"));
        stalled.try_next().await?;
        assert_eq!(whole(first).await?.len(), 1_000);
        assert!(texts.kept.bytes.load(Relaxed) <= 100);
        assert!(texts.join(&7).is_none(), "its first piece is gone");
        let cut_off = stalled.try_next().await.expect_err("cut off");
        assert_eq!(cut_off.kind(), io::ErrorKind::TimedOut);
        drop(stalled);
        assert_eq!(texts.kept.bytes.load(Relaxed), 0);
        Ok(())
    }

    #[tokio::test]
    async fn every_reader_is_told_that_the_source_failed() {
        let texts = SharedTexts::new(100);
        let failing = stream::iter([Ok(Bytes::from_static(b"a")), Err(io::Error::other("gone"))]);
        let first = texts.begin(7, failing.boxed());
        let second = texts.join(&7).expect("it has begun");
        let (first, second) = tokio::join!(whole(first), whole(second));
        assert!(first.is_err() && second.is_err());
    }
}
