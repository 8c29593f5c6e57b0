//! Long answers that are the same for several readers: the text is made once, piece by piece, and
//! each reader takes the pieces at its own speed.
//!
//! A piece is made when the first reader needs it, by all that need it: a reader that ends leaves
//! the work to the others. A text is there while it has a reader. All texts together keep at most
//! the bytes of one limit: above it the oldest pieces go, a text without its first piece takes no
//! new reader, and a reader that still needed a piece that is gone is cut off. So a reader that
//! stalls costs the others nothing. Nothing here knows what a text is of.
//!
//! A piece is compressed by the first reader that takes the compressed form, once for all of them: a
//! frame of zstd for each piece, which one after the other are an answer in the coding `zstd` (RFC
//! 8878, section 3). The reader that begins a text takes it so only over a network: that of one load
//! would take longer than the bytes do over loopback.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::header::{self, AcceptEncoding, Encoding, Header as _},
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
/// The level of compression: the fastest of those with a number above zero.
const LEVEL: i32 = 1;

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
    pieces: VecDeque<Piece>,
    /// What makes the next piece. It is done when the piece, or the end, is in the state.
    making: Making,
    /// Set after the last piece.
    ended: Option<Ended>,
}

/// A piece, in the forms that a reader has taken, and as it was made.
#[derive(Debug)]
struct Piece {
    plain: Bytes,
    zstd: Option<Bytes>,
}

/// The form in which a reader takes a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// Compressed.
    Zstd,
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

    /// A reader of the text with this key, from its beginning, in this form; `None` when none has
    /// begun, or its first piece is gone.
    pub fn join(&self, key: &K, coding: Coding) -> Option<Reader> {
        let mut begun = lock(&self.begun);
        begun.retain(|(_key, text)| text.strong_count() > 0);
        let text = begun.iter().find(|(of, _text)| of == key)?.1.upgrade()?;
        let is_whole = lock(&text.state).gone == 0;
        is_whole.then_some(Reader { text, coding })
    }

    /// Begins a text that others can join, and reads it.
    pub fn begin(
        &self,
        key: K,
        source: BoxStream<'static, io::Result<Bytes>>,
        coding: Coding,
    ) -> Reader {
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
        Reader { text, coding }
    }
}

impl Coding {
    /// The form for a reader that joins a text: compressed, if it accepts that.
    pub fn of_joining(request: &HttpRequest) -> Self {
        let forms = [Encoding::zstd(), Encoding::identity()];
        let accepted = AcceptEncoding::parse(request);
        match accepted.map(|accepted| accepted.negotiate(forms.iter())) {
            Ok(Some(form)) if form == Encoding::zstd() => Self::Zstd,
            _ => Self::Identity,
        }
    }

    /// The form for the reader that begins a text.
    pub fn of_first(request: &HttpRequest) -> Self {
        let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
        if peer.is_some_and(|peer| peer.is_loopback()) {
            return Self::Identity;
        }
        Self::of_joining(request)
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

/// One reader of a text.
#[derive(Debug)]
pub struct Reader {
    text: Arc<Text>,
    coding: Coding,
}

impl Reader {
    /// The answer with all pieces from the first.
    pub fn answer(self, mut answer: HttpResponseBuilder) -> HttpResponse {
        answer.insert_header((header::VARY, "accept-encoding"));
        if self.coding == Coding::Zstd {
            answer.insert_header((header::CONTENT_ENCODING, "zstd"));
        }
        answer.streaming(self.pieces())
    }

    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let until = Instant::now() + LONGEST;
        stream::try_unfold((self, 0, until), async |(reader, number, until)| {
            if Instant::now() >= until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, CutOff::TooLong));
            }
            let piece = reader.text.piece(number, reader.coding).await?;
            Ok(piece.map(|piece| (piece, (reader, number + 1, until))))
        })
    }
}

impl State {
    fn keep(&mut self, piece: Bytes, kept: &Kept) {
        kept.bytes.fetch_add(piece.len(), Relaxed);
        self.pieces.push_back(Piece {
            plain: piece,
            zstd: None,
        });
        while self.pieces.len() > 1 && kept.bytes.load(Relaxed) > kept.max {
            if let Some(oldest) = self.pieces.pop_front() {
                kept.bytes.fetch_sub(oldest.len(), Relaxed);
                self.gone += 1;
            }
        }
    }
}

impl Piece {
    /// Its bytes in a form, and how many are kept besides from now on.
    fn form(&mut self, coding: Coding) -> io::Result<(Bytes, usize)> {
        match (coding, &self.zstd) {
            (Coding::Identity, _) => Ok((self.plain.clone(), 0)),
            (Coding::Zstd, Some(form)) => Ok((form.clone(), 0)),
            (Coding::Zstd, None) => {
                let form = Bytes::from(zstd::bulk::compress(&self.plain, LEVEL)?);
                self.zstd = Some(form.clone());
                let bytes = form.len();
                Ok((form, bytes))
            }
        }
    }

    fn len(&self) -> usize {
        self.plain.len() + self.zstd.as_ref().map_or(0, Bytes::len)
    }
}

impl Text {
    /// A piece; `None` after the last.
    async fn piece(&self, number: usize, coding: Coding) -> io::Result<Option<Bytes>> {
        loop {
            let making = {
                let mut state = lock(&self.state);
                let Some(place) = number.checked_sub(state.gone) else {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, CutOff::TooSlow));
                };
                let ended = state.ended;
                match (state.pieces.get_mut(place), ended) {
                    (Some(piece), _) => {
                        let (form, more) = piece.form(coding)?;
                        self.kept.bytes.fetch_add(more, Relaxed);
                        return Ok(Some(form));
                    }
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
        let bytes = state.pieces.iter().map(Piece::len).sum();
        self.kept.bytes.fetch_sub(bytes, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds the lock leaves the state half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
