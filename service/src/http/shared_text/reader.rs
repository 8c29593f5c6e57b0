//! A reader of a shared text, and the form in which it takes the text.
//!
//! In the coding `zstd` (RFC 8878, section 3) the answer is one frame after the other, each of a piece.
//! The reader that begins a text takes it so only over a network: that of one load would take longer
//! than the bytes do over loopback.

use std::{
    io,
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
/// Pieces up to this size, in bytes, are compressed at once, which takes less than a millisecond.
pub(super) const SHORT: usize = 256 * 1024;

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
            // A piece that is there is given also after the deadline of a wait.
            if Instant::now() >= until {
                return Err(CutOff::TooLong.into());
            }
            let piece = timeout_at(until, reader.piece(place)).await;
            let piece = piece.map_err(|_elapsed| CutOff::TooLong)??;
            Ok(piece.map(|piece| (piece, (reader, place + 1))))
        })
    }

    /// The piece in this place, in the form of the reader; `None` after the last.
    pub(super) async fn piece(&self, place: usize) -> io::Result<Option<Bytes>> {
        loop {
            let found = lock(&self.texts).find(self.number, place)?;
            match found {
                Found::Piece(piece) => return self.form(piece, place).await.map(Some),
                Found::NotMade(making) => making.await,
                Found::End => return Ok(None),
            }
        }
    }

    async fn form(&self, piece: Piece, place: usize) -> io::Result<Bytes> {
        if self.coding == Coding::Identity {
            return Ok(piece.plain);
        }
        // The others that need it meanwhile wait for it.
        let compressed = piece.zstd.get_or_try_init(async || {
            let form = compress(piece.plain.clone()).await?;
            lock(&self.texts).count_form(self.number, place, form.len());
            io::Result::Ok(form)
        });
        compressed.await.cloned()
    }
}

impl<K> Drop for Reader<K> {
    fn drop(&mut self) {
        // Dropped without the lock: what its source holds is not known here.
        let _text = lock(&self.texts).leave(self.number);
    }
}

async fn compress(plain: Bytes) -> io::Result<Bytes> {
    let is_short = plain.len() <= SHORT;
    let compress = move || zstd::bulk::compress(&plain, LEVEL).map(Bytes::from);
    if is_short {
        return compress();
    }
    // A piece with a large document.
    spawn_blocking(compress).await?
}
