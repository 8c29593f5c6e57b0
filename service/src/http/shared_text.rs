//! Long answers that are the same for several readers: the text is made once, piece by piece, and
//! each reader takes the pieces at its own speed.
//!
//! A piece is made when the first reader needs it, by all that need it: a reader that ends leaves
//! the work to the others. A text is there while it has a reader. All texts together keep at most
//! the bytes of one limit: above it the oldest pieces go, of the oldest text first. A text without
//! its first piece takes no new reader, and a reader that still needed a piece that is gone is cut
//! off. So a reader that stalls costs those of later texts nothing. A text that has had one reader
//! for a while keeps nothing behind it. Nothing here knows what a text is of.
//!
//! A piece is compressed by the first reader that takes the compressed form, once for all of them: see
//! [`Reader`].
//!
//! One lock guards all texts. It is never held while a piece is made or compressed.

mod reader;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared},
    stream::BoxStream,
};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};

pub use reader::{Coding, Reader};

/// Longest time of one answer, however fast its reader is.
const LONGEST: Duration = Duration::from_secs(600);
/// Longest time in which a source makes a piece. Its own calls have shorter deadlines.
const LONGEST_PIECE: Duration = Duration::from_secs(30);
/// How long a text with one reader waits for others: those that come together with it are queued for
/// no longer than 1.5 s.
const ALONE: Duration = Duration::from_secs(2);

/// The texts that are being read, each under the key that says what it is of.
#[derive(Debug)]
pub struct SharedTexts<K>(Arc<Mutex<Texts<K>>>);

#[derive(Debug)]
struct Texts<K> {
    /// By number, so in the order in which they began. Each has a reader.
    texts: BTreeMap<u64, Text<K>>,
    /// The number of the next text.
    next: u64,
    /// Bytes of all pieces.
    bytes: usize,
    max: usize,
    /// [`ALONE`], and [`LONGEST_PIECE`].
    alone: Duration,
    longest_piece: Duration,
}

#[derive(Debug)]
struct Text<K> {
    key: K,
    began: Instant,
    readers: usize,
    /// The number of pieces that are gone.
    gone: usize,
    pieces: VecDeque<Piece>,
    /// What makes the next piece. It is done when the piece, or the end, is in the text.
    making: Making,
    /// Set after the last piece.
    ended: Option<Ended>,
}

/// A piece as it was made, and compressed once a reader has taken it so.
#[derive(Debug, Clone)]
struct Piece {
    plain: Bytes,
    zstd: Arc<OnceCell<Bytes>>,
    /// Bytes of both, as far as they are counted.
    bytes: usize,
}

type Source = BoxStream<'static, io::Result<Bytes>>;
type Making = Shared<BoxFuture<'static, ()>>;

/// How a text ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    Whole,
    /// The source failed.
    Failed(io::ErrorKind),
}

/// What a reader finds in the place of the piece that it needs.
enum Found {
    Piece(Piece),
    NotMade(Making),
    End,
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

impl From<CutOff> for io::Error {
    fn from(cut_off: CutOff) -> Self {
        Self::new(io::ErrorKind::TimedOut, cut_off)
    }
}

impl<K: PartialEq + Send + 'static> SharedTexts<K> {
    /// Texts that together keep at most `max` bytes, and one piece each besides.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Mutex::new(Texts {
            texts: BTreeMap::new(),
            next: 0,
            bytes: 0,
            max,
            alone: ALONE,
            longest_piece: LONGEST_PIECE,
        })))
    }

    /// A reader of the text with this key, from its beginning, in this form; `None` when none has
    /// begun, its first piece is gone, or it has failed.
    pub fn join(&self, key: &K, coding: Coding) -> Option<Reader<K>> {
        let number = lock(&self.0).join(key)?;
        Some(self.reader(number, coding))
    }

    /// Begins a text that others can join, and reads it. When another has begun the text with this
    /// key meanwhile, that one is read and the source is not needed.
    pub fn begin(&self, key: K, source: Source, coding: Coding) -> Reader<K> {
        let mut texts = lock(&self.0);
        let number = match texts.join(&key) {
            Some(number) => number,
            None => texts.begin(key, |number, longest| {
                make(Arc::clone(&self.0), number, longest, source)
            }),
        };
        self.reader(number, coding)
    }

    fn reader(&self, number: u64, coding: Coding) -> Reader<K> {
        Reader {
            texts: Arc::clone(&self.0),
            number,
            coding,
        }
    }
}

impl<K: PartialEq> Texts<K> {
    /// One reader more of the text with this key; the number of the text.
    fn join(&mut self, key: &K) -> Option<u64> {
        let (number, text) = self.texts.iter_mut().find(|(_number, text)| {
            text.key == *key && text.gone == 0 && !matches!(text.ended, Some(Ended::Failed(_)))
        })?;
        text.readers += 1;
        Some(*number)
    }

    /// A new text with one reader; its number.
    fn begin(&mut self, key: K, make: impl FnOnce(u64, Duration) -> Making) -> u64 {
        let number = self.next;
        self.next += 1;
        let text = Text {
            key,
            began: Instant::now(),
            readers: 1,
            gone: 0,
            pieces: VecDeque::new(),
            making: make(number, self.longest_piece),
            ended: None,
        };
        self.texts.insert(number, text);
        number
    }
}

impl<K> Texts<K> {
    /// What is in this place of a text.
    fn find(&mut self, number: u64, place: usize) -> io::Result<Found> {
        let text = self.texts.get_mut(&number);
        let text = text.expect("a text is there while it has a reader");
        if text.readers == 1 && text.began.elapsed() >= self.alone {
            while text.gone < place && !text.pieces.is_empty() {
                self.bytes -= text.drop_oldest();
            }
        }
        let kept = place.checked_sub(text.gone).ok_or(CutOff::TooSlow)?;
        match (text.pieces.get(kept), text.ended) {
            (Some(piece), _) => Ok(Found::Piece(piece.clone())),
            (None, None) => Ok(Found::NotMade(text.making.clone())),
            (None, Some(Ended::Whole)) => Ok(Found::End),
            (None, Some(Ended::Failed(kind))) => Err(kind.into()),
        }
    }

    /// Counts the compressed form of a piece, if the piece is still there.
    fn count_form(&mut self, number: u64, place: usize, bytes: usize) {
        let Some(text) = self.texts.get_mut(&number) else {
            return;
        };
        let kept = place.checked_sub(text.gone);
        if let Some(piece) = kept.and_then(|kept| text.pieces.get_mut(kept)) {
            piece.bytes += bytes;
            self.bytes += bytes;
            self.keep_to_the_limit();
        }
    }

    /// Drops what is above the limit.
    fn keep_to_the_limit(&mut self) {
        for text in self.texts.values_mut() {
            while self.bytes > self.max && text.pieces.len() > 1 {
                self.bytes -= text.drop_oldest();
            }
        }
    }

    /// One reader less of a text; the text, if that was the last one.
    fn leave(&mut self, number: u64) -> Option<Text<K>> {
        let text = self.texts.get_mut(&number)?;
        text.readers -= 1;
        if text.readers > 0 {
            return None;
        }
        let text = self.texts.remove(&number)?;
        self.bytes -= text.pieces.iter().map(|piece| piece.bytes).sum::<usize>();
        Some(text)
    }
}

impl<K> Text<K> {
    /// Drops the oldest piece that is there; its bytes.
    fn drop_oldest(&mut self) -> usize {
        self.pieces.pop_front().map_or(0, |piece| {
            self.gone += 1;
            piece.bytes
        })
    }
}

/// Makes the next piece of a text, and puts it there with what makes the one after it. Only readers
/// of the text drive it, so without one nothing is made. Whatever the source does, the text goes on or
/// ends.
fn make<K: Send + 'static>(
    shared: Arc<Mutex<Texts<K>>>,
    number: u64,
    longest: Duration,
    mut source: Source,
) -> Making {
    let making = async move {
        let piece = AssertUnwindSafe(timeout(longest, source.next()));
        let piece = match piece.catch_unwind().await {
            Ok(Ok(piece)) => piece,
            Ok(Err(_elapsed)) => Some(Err(io::ErrorKind::TimedOut.into())),
            // Without this the other readers would not be woken. The panic hook has reported it.
            Err(_panic) => Some(Err(io::ErrorKind::Other.into())),
        };
        let mut guard = lock(&shared);
        let texts = &mut *guard;
        let Some(text) = texts.texts.get_mut(&number) else {
            return;
        };
        match piece {
            Some(Ok(plain)) => {
                texts.bytes += plain.len();
                text.pieces.push_back(Piece {
                    bytes: plain.len(),
                    plain,
                    zstd: Arc::default(),
                });
                text.making = make(Arc::clone(&shared), number, longest, source);
                texts.keep_to_the_limit();
            }
            Some(Err(error)) => text.ended = Some(Ended::Failed(error.kind())),
            None => text.ended = Some(Ended::Whole),
        }
    };
    making.boxed().shared()
}

fn lock<K>(texts: &Mutex<Texts<K>>) -> MutexGuard<'_, Texts<K>> {
    // No code that holds the lock leaves the texts half changed.
    texts.lock().unwrap_or_else(PoisonError::into_inner)
}
