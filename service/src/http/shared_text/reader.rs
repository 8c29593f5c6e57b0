//! A reader of a shared text, and the form in which it takes the text.
//!
//! As they are, pieces are sent one by one. In the coding `zstd` (RFC 8878, section 3) the answer is
//! one frame after the other, each of some pieces: a small piece that is compressed well would cost
//! more to send than to make. The reader that begins a text takes it so only over a network: that of
//! one load would take longer than the bytes do over loopback.

use std::{
    io::{self, Write as _},
    sync::{Arc, Mutex},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::header::{self, AcceptEncoding, Encoding, Header as _},
};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use super::{CutOff, Found, LONGEST, Piece, Texts, lock};

/// The level of compression: the fastest of those with a number above zero.
const LEVEL: i32 = 1;
/// A frame is of pieces with at least so many bytes, as far as there are more.
pub(super) const TOGETHER: usize = 512 * 1024;

/// The form in which a reader takes a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// Compressed.
    Zstd,
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

/// One reader of a text.
#[derive(Debug)]
pub struct Reader<K> {
    pub(super) texts: Arc<Mutex<Texts<K>>>,
    /// The number of its text.
    pub(super) number: u64,
    pub(super) coding: Coding,
}

impl<K: Send + 'static> Reader<K> {
    /// The answer with all pieces from the first.
    pub fn answer(self, mut answer: HttpResponseBuilder) -> HttpResponse {
        answer.insert_header((header::VARY, "accept-encoding"));
        if self.coding == Coding::Zstd {
            answer.insert_header((header::CONTENT_ENCODING, "zstd"));
        }
        answer.streaming(self.pieces())
    }

    pub(super) fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let until = Instant::now() + LONGEST;
        stream::try_unfold((self, 0), move |(reader, place)| async move {
            // What is there is given also after the deadline of a wait.
            if Instant::now() >= until {
                return Err(CutOff::TooLong.into());
            }
            let next = timeout_at(until, reader.next(place)).await;
            let next = next.map_err(|_elapsed| CutOff::TooLong)??;
            Ok(next.map(|(bytes, pieces)| (bytes, (reader, place + pieces))))
        })
    }

    /// What is sent next, from the piece in this place on, and of how many pieces it is; `None` after
    /// the last.
    pub(super) async fn next(&self, place: usize) -> io::Result<Option<(Bytes, usize)>> {
        let together = match self.coding {
            Coding::Identity => 0,
            Coding::Zstd => TOGETHER,
        };
        loop {
            let found = lock(&self.texts).find(self.number, place, together)?;
            match found {
                Found::Pieces(pieces) => return self.form(pieces, place).await,
                Found::NotMade(making) => making.await,
            }
        }
    }

    async fn form(&self, pieces: Vec<Piece>, place: usize) -> io::Result<Option<(Bytes, usize)>> {
        let count = pieces.len();
        let Some(first) = pieces.first() else {
            return Ok(None);
        };
        if self.coding == Coding::Identity {
            return Ok(Some((first.plain.clone(), 1)));
        }
        let zstd = Arc::clone(&first.zstd);
        // The others that need it meanwhile wait for it.
        let compressed = zstd.get_or_try_init(async || {
            let form = spawn_blocking(move || compress(&pieces)).await??;
            lock(&self.texts).count_form(self.number, place, form.len());
            io::Result::Ok(form)
        });
        Ok(Some((compressed.await?.clone(), count)))
    }
}

impl<K> Drop for Reader<K> {
    fn drop(&mut self) {
        // Dropped without the lock: what its source holds is not known here.
        let _text = lock(&self.texts).leave(self.number);
    }
}

/// One frame of some pieces.
fn compress(pieces: &[Piece]) -> io::Result<Bytes> {
    let mut frame = zstd::Encoder::new(Vec::new(), LEVEL)?;
    for piece in pieces {
        frame.write_all(&piece.plain)?;
    }
    frame.finish().map(Bytes::from)
}
