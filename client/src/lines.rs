//! The lines of a newline-delimited answer, as they arrive.
//!
//! A line is a part of the buffer that received it: nothing is copied per line, and a caller that
//! drops each line before it asks for the next lets the buffer be used again.

use bytes::BytesMut;
use reqwest::Response;

use crate::{ClientError, Endpoint};

/// Longest line: the largest document that can be written, and what surrounds it. Bytes.
pub const MAX_LINE: usize = 5 * 1024 * 1024;

/// Lines of one answer. It never joins or skips lines, and ends with the body; whether that is the
/// end of the content, the caller knows.
#[derive(Debug)]
pub struct Lines {
    /// Named by errors.
    endpoint: Endpoint,
    /// Where the next bytes come from.
    response: Response,
    /// Bytes that were received and not given yet.
    buffer: BytesMut,
    /// Bytes of the buffer that contain no line feed.
    searched: usize,
    /// Whether the body is over.
    ended: bool,
}

impl Lines {
    /// The lines of an answer whose body was not read yet.
    pub(crate) fn new(endpoint: &Endpoint, response: Response) -> Self {
        Self {
            endpoint: endpoint.clone(),
            response,
            buffer: BytesMut::new(),
            searched: 0,
            ended: false,
        }
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
            let piece = self.response.chunk().await;
            match piece.map_err(|cause| self.endpoint.broken_off(cause))? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => self.ended = true,
            }
        }
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
        let base = "http://127.0.0.1:1".parse().expect("a valid URL");
        let endpoint = Endpoint::new(&base, Timeouts::TEST).expect("a client");
        let pieces = body.split('|').map(Ok::<_, std::io::Error>);
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
        let answer = http_response(body);
        Lines::new(&endpoint, answer)
    }

    fn http_response(body: reqwest::Body) -> Response {
        Response::from(http::Response::new(body))
    }

    async fn all(mut lines: Lines) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().await.expect("a line") {
            all.push(String::from_utf8(line.to_vec()).expect("text"));
        }
        all
    }

    #[tokio::test]
    async fn lines_do_not_depend_on_how_the_body_arrives() {
        for body in ["a\nbc\n\nd\n", "a|\nb|c\n|\nd\n", "a\r\nbc\r|\n\n|d"] {
            assert_eq!(all(lines(body)).await, ["a", "bc", "", "d"], "{body:?}");
        }
        assert!(all(lines("")).await.is_empty());
    }
}
