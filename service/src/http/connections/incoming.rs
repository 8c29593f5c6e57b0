//! How many received bytes the HTTP server may see: never more than one request before its answer is
//! complete.
//!
//! actix-http keeps the method, the version and the connection header of the request that it read
//! *last*, also while an earlier one is being answered. A pipelined HEAD would take the body of the
//! answer before it. So bytes are handed over up to the end of a request only (RFC 9112 section
//! 9.3.2: answers come in the order of the requests). Nothing is parsed or refused here: all bytes
//! reach the server unchanged and in order. Pure.

use actix_web::http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};

/// How the length of the body of a request is known (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum BodyLength {
    /// This many bytes; 0 for a request without a body.
    Known(u64),
    /// Chunks: the end is in the body.
    Chunked,
}

impl BodyLength {
    /// The length that the head of a request declares. The server has refused every transfer coding
    /// but `chunked`, and every length that is no number.
    pub(in crate::http) fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key(TRANSFER_ENCODING) {
            return Self::Chunked;
        }
        let length = headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        Self::Known(length.unwrap_or(0))
    }
}

/// What of the current request the server has not seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Bytes up to a blank line: a head or a chunked body ends with one.
    Lines,
    /// This many bytes of a body.
    Bytes(u64),
    /// Nothing: the request is complete.
    Nothing,
}

/// The bytes of one connection that come in.
#[derive(Debug)]
pub(super) struct Incoming {
    rest: Rest,
    /// Whether a line that is not blank came since the last end; blank lines before a request end
    /// nothing (RFC 9112 section 2.2).
    has_text: bool,
    /// Whether the current line is blank so far.
    is_blank: bool,
    /// The first byte of the newest text: of a method, where a request begins.
    first: u8,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            rest: Rest::Lines,
            has_text: false,
            is_blank: true,
            first: 0,
        }
    }
}

/// The first bytes of what was received that the server may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) length: usize,
    /// Whether a request may end here: the server has to look at it before it gets more.
    pub(super) may_end: bool,
}

impl Incoming {
    /// The server has read the head of a request.
    pub(super) fn begin_body(&mut self, length: BodyLength) {
        self.rest = match length {
            BodyLength::Known(0) => Rest::Nothing,
            BodyLength::Known(length) => Rest::Bytes(length),
            BodyLength::Chunked => Rest::Lines,
        };
    }

    /// The server has read the body of a request to its end.
    pub(super) fn end_body(&mut self) {
        self.rest = Rest::Nothing;
    }

    /// The answer is complete. What the server did not read of a body is read like a head.
    pub(super) fn end_answer(&mut self) {
        *self = Self::default();
    }

    /// Whether the server has the whole request, and waits for its answer.
    pub(super) fn is_complete(&self) -> bool {
        self.rest == Rest::Nothing
    }

    /// Whether the request that comes in may be a HEAD, whose answer never has a body. No other method
    /// begins with its letter.
    pub(super) fn may_be_head(&self) -> bool {
        self.first == b'H'
    }

    /// How many of the received bytes are handed over.
    pub(super) fn piece(&mut self, received: &[u8]) -> Piece {
        match &mut self.rest {
            Rest::Nothing => Piece {
                length: 0,
                may_end: true,
            },
            Rest::Bytes(rest) => {
                let length = received
                    .len()
                    .min(usize::try_from(*rest).unwrap_or(usize::MAX));
                *rest -= length as u64;
                let may_end = *rest == 0;
                if may_end {
                    self.rest = Rest::Nothing;
                }
                Piece { length, may_end }
            }
            Rest::Lines => {
                let end = received.iter().position(|byte| self.is_end(*byte));
                Piece {
                    length: end.map_or(received.len(), |end| end + 1),
                    may_end: end.is_some(),
                }
            }
        }
    }

    /// Whether this byte ends a blank line after text.
    fn is_end(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' if self.is_blank && self.has_text => {
                self.has_text = false;
                return true;
            }
            b'\n' => self.is_blank = true,
            b'\r' => {}
            _ => {
                if !self.has_text {
                    self.first = byte;
                }
                (self.has_text, self.is_blank) = (true, false);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of these bytes when they arrive in parts of `size`; a piece goes on until it may
    /// end.
    fn pieces(mut incoming: Incoming, received: &str, size: usize) -> Vec<String> {
        let mut pieces = vec![String::new()];
        for mut part in received.as_bytes().chunks(size) {
            while !part.is_empty() && !incoming.is_complete() {
                let Piece { length, may_end } = incoming.piece(part);
                let text = String::from_utf8_lossy(&part[..length]).into_owned();
                pieces.last_mut().expect("one piece").push_str(&text);
                if may_end {
                    pieces.push(String::new());
                }
                part = &part[length..];
            }
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }

    #[test]
    fn heads_come_one_at_a_time_however_they_arrive() {
        let heads = [
            "\r\n\nGET / HTTP/1.1\r\nA: b\r\n\r\n",
            "HEAD /\n\n",
            "GET /x\r\n\n",
            "GE",
        ];
        for size in 1..30 {
            assert_eq!(pieces(Incoming::default(), &heads.concat(), size), heads);
        }
    }

    #[test]
    fn a_body_of_known_length_ends_there_and_no_byte_after_it_is_handed_over() {
        for size in 1..30 {
            let mut incoming = Incoming::default();
            incoming.begin_body(BodyLength::Known(7));
            assert_eq!(
                pieces(incoming, "a\n\nb\n\ncHEAD / HTTP/1.1\r\n", size),
                ["a\n\nb\n\nc"]
            );
        }
        let mut incoming = Incoming::default();
        incoming.begin_body(BodyLength::Known(0));
        assert!(incoming.is_complete());
        incoming.end_answer();
        assert!(!incoming.is_complete());
    }

    #[test]
    fn the_last_chunk_ends_a_piece() {
        for size in 1..30 {
            let mut incoming = Incoming::default();
            incoming.begin_body(BodyLength::Chunked);
            let received = "3\r\nabc\r\n0\r\n\r\nGET /";
            assert_eq!(
                pieces(incoming, received, size),
                ["3\r\nabc\r\n0\r\n\r\n", "GET /"]
            );
        }
    }
}
