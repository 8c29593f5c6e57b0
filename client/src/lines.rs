//! The lines of a newline-delimited answer, as they arrive.
//!
//! A line is a part of the buffer that received it: nothing is copied per line, and a caller that
//! drops each line before it asks for the next lets the buffer be used again. An answer in the coding
//! `zstd` (RFC 8878) is unpacked as it is read, so its bounds and its least rate are those of its lines.

use std::{fmt, io, pin::Pin, time::Duration};

use async_compression::{tokio::bufread::ZstdDecoder, zstd::DParameter};
use bytes::BytesMut;
use futures_util::TryStreamExt as _;
use reqwest::{Response, header::CONTENT_ENCODING};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::StreamReader;

use crate::{ClientError, Endpoint, pace::Pace};

/// Longest line: the largest document that can be written, and what surrounds it. Bytes.
pub const MAX_LINE: usize = 5 * 1024 * 1024;

/// Lines of one answer. It never joins or skips lines, and ends with the body; whether that is the
/// end of the content, the caller knows.
#[derive(Debug)]
pub struct Lines {
    /// Named by errors.
    endpoint: Endpoint,
    /// Where the next bytes come from.
    body: Body,
    /// Bytes that were received and not given yet.
    buffer: BytesMut,
    /// Bytes of the buffer that contain no line feed.
    searched: usize,
    /// Whether the body is over.
    ended: bool,
    /// How fast the body comes.
    pace: Pace,
}

/// The coding that [`Lines`] unpacks.
pub(crate) const CODING: &str = "zstd";
/// Most bytes from which a compressed answer may repeat earlier ones, as a power of two: what RFC 9659
/// allows. A decoder keeps as many.
const WINDOW: u32 = 23;
/// Bytes that are unpacked at a time.
const UNPACKED: usize = 128 * 1024;

enum Body {
    Plain(Response),
    Zstd(Pin<Box<dyn AsyncRead + Send + Sync>>),
}

impl Body {
    fn of(response: Response) -> Self {
        let coding = response.headers().get(CONTENT_ENCODING);
        if coding.is_none_or(|coding| coding != CODING) {
            return Self::Plain(response);
        }
        let pieces = response.bytes_stream().map_err(io::Error::other);
        let window = [DParameter::window_log_max(WINDOW)];
        let mut decoder = ZstdDecoder::with_params(StreamReader::new(pieces), &window);
        decoder.multiple_members(true);
        Self::Zstd(Box::pin(decoder))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl Lines {
    /// The lines of an answer whose body was not read yet.
    pub(crate) fn new(endpoint: &Endpoint, response: Response) -> Self {
        Self {
            endpoint: endpoint.clone(),
            body: Body::of(response),
            buffer: BytesMut::new(),
            searched: 0,
            ended: false,
            pace: Pace::new(endpoint.timeouts().period),
        }
    }

    /// The same, at a pace that is measured over periods of this length.
    pub(crate) fn paced(mut self, period: Duration) -> Self {
        self.pace = Pace::new(period);
        self
    }

    /// The next line without its line feed; `None` at the end of the body.
    ///
    /// # Errors
    /// When the answer breaks off, or a line is longer than [`MAX_LINE`].
    pub async fn next_line(&mut self) -> Result<Option<BytesMut>, ClientError> {
        loop {
            if let Some(offset) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let mut line = self.buffer.split_to(self.searched + offset + 1);
                // Without the line feed, which the split includes.
                line.truncate(line.len() - 1);
                // A proxy or another publisher may end lines in the other way.
                if line.ends_with(b"\r") {
                    line.truncate(line.len() - 1);
                }
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            // Without a limit a body without line feeds would fill the memory.
            if self.searched > MAX_LINE {
                return Err(self
                    .endpoint
                    .unusable(format_args!("a line is longer than {MAX_LINE} bytes")));
            }
            if self.ended {
                self.searched = 0;
                let rest = self.buffer.split();
                // The last line may lack its line feed.
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            }
            self.ended = !self.read().await?;
        }
    }

    /// Reads more of the body; `false` at its end.
    async fn read(&mut self) -> Result<bool, ClientError> {
        let before = self.buffer.len();
        let slow = |slow| self.endpoint.broken_off(slow);
        let goes_on = match &mut self.body {
            Body::Plain(response) => {
                let piece = self.pace.wait(response.chunk()).await.map_err(slow)?;
                let piece = piece.map_err(|cause| self.endpoint.broken_off(cause))?;
                if let Some(piece) = &piece {
                    self.buffer.extend_from_slice(piece);
                }
                piece.is_some()
            }
            Body::Zstd(unpacked) => {
                self.buffer.reserve(UNPACKED);
                let read = self.pace.wait(unpacked.read_buf(&mut self.buffer)).await;
                let read = read.map_err(slow)?;
                let read = read.map_err(|error| match error.downcast::<reqwest::Error>() {
                    Ok(cause) => self.endpoint.broken_off(cause),
                    Err(error) => {
                        let why = format_args!("its compressed text: {error}");
                        self.endpoint.unusable(why)
                    }
                })?;
                read > 0
            }
        };
        self.pace.arrived(self.buffer.len() - before);
        Ok(goes_on)
    }

    /// The endpoint that answers.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timeouts;

    fn lines(body: &'static str) -> Lines {
        answered(body.split('|').map(|piece| piece.as_bytes().to_vec()), None)
    }

    fn answered(
        pieces: impl IntoIterator<Item = Vec<u8>, IntoIter: Send + 'static>,
        coding: Option<&str>,
    ) -> Lines {
        let base = "http://127.0.0.1:1".parse().expect("a valid URL");
        let endpoint = Endpoint::new(&base, Timeouts::TEST).expect("a client");
        let pieces = pieces.into_iter().map(Ok::<_, io::Error>);
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
        let mut answer = http::Response::new(body);
        if let Some(coding) = coding {
            let coding = coding.parse().expect("a header");
            answer.headers_mut().insert(CONTENT_ENCODING, coding);
        }
        Lines::new(&endpoint, Response::from(answer))
    }

    async fn all(mut lines: Lines) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().await.expect("a line") {
            all.push(String::from_utf8(line.to_vec()).expect("text"));
        }
        all
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(text, 1).expect("compressed")
    }

    #[tokio::test]
    async fn compressed_lines_are_unpacked_as_they_are_read() {
        let frames = [zstd(b"a\nb"), zstd(b"c\n"), zstd(b"\nd\n")].concat();
        for length in [1, 7, frames.len()] {
            let pieces: Vec<_> = frames.chunks(length).map(<[u8]>::to_vec).collect();
            let lines = answered(pieces, Some("zstd"));
            assert_eq!(all(lines).await, ["a", "bc", "", "d"], "{length}");
        }
        // A gibibyte without a line feed, in some kilobytes: it is given up at the longest line.
        let bomb = zstd(&vec![b' '; 1 << 24]);
        let mut lines = answered((0..64).map(move |_each| bomb.clone()), Some("zstd"));
        let error = lines.next_line().await.expect_err("too long");
        assert!(error.to_string().contains("longer than"), "{error}");
        assert!(lines.buffer.capacity() < 4 * MAX_LINE);
    }

    #[tokio::test]
    async fn a_compressed_answer_that_is_damaged_or_cut_off_is_refused() {
        let whole = zstd(b"a\nb\n");
        let cut_off = whole[..whole.len() - 1].to_vec();
        let mut changed = whole.clone();
        changed[0] ^= 1;
        // A window of 16 MiB.
        let mut wide = zstd::stream::raw::Encoder::new(1).expect("an encoder");
        let window = zstd::stream::raw::CParameter::WindowLog(24);
        wide.set_parameter(window).expect("a parameter");
        let mut wide = zstd::stream::zio::Writer::new(Vec::new(), wide);
        io::Write::write_all(&mut wide, &[b'\n'; 100]).expect("written");
        wide.finish().expect("an end");
        let wide = wide.into_inner().0;
        for body in [cut_off, changed, wide] {
            let mut lines = answered([body], Some("zstd"));
            let error = loop {
                match lines.next_line().await {
                    Ok(Some(_line)) => {}
                    Ok(None) => panic!("no error"),
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains("compressed text"), "{error}");
        }
    }

    #[tokio::test]
    async fn lines_do_not_depend_on_how_the_body_arrives() {
        for body in ["a\nbc\n\nd\n", "a|\nb|c\n|\nd\n", "a\r\nbc\r|\n\n|d"] {
            assert_eq!(all(lines(body)).await, ["a", "bc", "", "d"], "{body:?}");
        }
        assert!(all(lines("")).await.is_empty());
    }
}
