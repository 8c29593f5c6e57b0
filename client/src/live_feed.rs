//! The live form of the change feed: a stream of server-sent events.
//!
//! It reads one connection to its end. Reconnecting, and from which position, is the caller's
//! decision. The feed may be silent between two events for a while; an event that has begun comes at the
//! least rate of a body.

use std::fmt;

use bytes::Bytes;

use contract::{
    Epoch,
    feed::{CHANGE, CONFIRM, EVENT_STREAM, RESYNC, Since, StreamEnd},
};
use futures_util::{
    Stream, StreamExt,
    stream::{BoxStream, try_unfold},
};
use reqwest::{
    Response,
    header::{ACCEPT, CONTENT_TYPE},
};
use sse_stream::{Sse, SseByteStream};

use crate::{ClientError, Endpoint, feed::page_path, lines::MAX_LINE, pace::Pace};

/// Where a live feed begins.
#[derive(Debug, Clone, Copy)]
pub enum FeedStart<'a> {
    /// After these revisions of this history.
    After(&'a Since, Epoch),
    /// After the event that had this position as its `id`.
    Position(&'a str),
}

/// One message of a live feed, and the position after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedMessage {
    /// A change, as JSON.
    Change {
        /// The change as the service wrote it.
        item: String,
        /// The position after it.
        position: String,
    },
    /// A request waits until its readers have applied the changes so far.
    Confirm,
    /// The stream ends, because it cannot continue without a gap.
    End {
        /// Why, and the heads to continue from.
        end: StreamEnd,
        /// The position of these heads.
        position: String,
    },
}

/// An open live feed.
pub struct LiveFeed {
    /// Named by errors.
    endpoint: Endpoint,
    /// The server-sent events of the body.
    events: BoxStream<'static, Result<Sse, sse_stream::Error>>,
}

impl fmt::Debug for LiveFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveFeed")
            .field("endpoint", &self.endpoint.name())
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Opens a live feed and reads its messages.
    ///
    /// # Errors
    /// As [`Endpoint::open_live_feed`].
    pub async fn live_feed(&self, start: FeedStart<'_>) -> Result<LiveFeed, ClientError> {
        let response = self.open_live_feed(start).await?;
        Ok(LiveFeed {
            endpoint: self.clone(),
            events: SseByteStream::new(self.pieces(response)).boxed(),
        })
    }

    /// Opens a live feed and gives the answer before its body is read.
    ///
    /// # Errors
    /// When there is no answer, the feed cannot continue from there, or the service has no live
    /// feed.
    pub async fn open_live_feed(&self, start: FeedStart<'_>) -> Result<Response, ClientError> {
        let request = match start {
            FeedStart::After(since, epoch) => self.stream_request(&page_path(since, epoch)),
            // The header that a browser sends by itself when it connects again.
            FeedStart::Position(position) => self
                .stream_request("/v1/changes")
                .header("Last-Event-ID", position),
        };
        let response = self.send_read(request.header(ACCEPT, EVENT_STREAM)).await?;
        let media_type = response.headers().get(CONTENT_TYPE);
        // An older service ignores the Accept header and sends a page.
        if media_type.is_some_and(|value| value.as_bytes().starts_with(EVENT_STREAM.as_bytes())) {
            Ok(response)
        } else {
            Err(self.unusable("it has no live feed: the service is older than this client"))
        }
    }
}

impl Endpoint {
    /// The body of a live feed. An event that comes too slowly, or is too long, is an error.
    fn pieces(
        &self,
        response: Response,
    ) -> impl Stream<Item = Result<Bytes, ClientError>> + Send + 'static {
        let pace = Pace::new(self.timeouts().silence);
        let begun = (self.clone(), response, BegunEvent::default(), pace);
        try_unfold(
            begun,
            |(endpoint, mut response, mut event, mut pace)| async {
                let piece = if event.is_empty() {
                    // Only the connection limits the silence.
                    pace.restart();
                    response.chunk().await
                } else {
                    let piece = pace.wait(response.chunk()).await;
                    piece.map_err(|slow| endpoint.broken_off(slow))?
                };
                let piece = piece.map_err(|cause| endpoint.broken_off(cause))?;
                let Some(piece) = piece else { return Ok(None) };
                event.read(&piece);
                pace.arrived(piece.len());
                if event.len() > MAX_LINE {
                    let reason = format_args!("an event is longer than {MAX_LINE} bytes");
                    return Err(endpoint.unusable(reason));
                }
                Ok(Some((piece, (endpoint, response, event, pace))))
            },
        )
    }
}

/// How much of an event arrived before its end. Comments between two events, which keep the connection
/// alive, are none.
#[derive(Debug, Default)]
struct BegunEvent {
    /// Bytes of its whole lines.
    lines: usize,
    /// Bytes of the line that is not whole.
    line: usize,
    /// Whether that line is a comment.
    is_comment: bool,
}

impl BegunEvent {
    fn len(&self) -> usize {
        self.lines + self.line
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let end = memchr::memchr(b'\n', piece);
            let (part, rest) = piece.split_at(end.unwrap_or(piece.len()));
            if self.line == 0 {
                self.is_comment = part.starts_with(b":");
            }
            // The other end of a line is none of its bytes.
            self.line += part.len() - usize::from(end.is_some() && part.ends_with(b"\r"));
            if end.is_some() {
                // A line without bytes ends the event.
                match self.line {
                    0 => self.lines = 0,
                    _comment if self.is_comment => {}
                    bytes => self.lines += bytes,
                }
                self.line = 0;
            }
            piece = rest.get(1..).unwrap_or_default();
        }
    }
}

/// What is said of a feed whose stream failed: one that was lost may go on from its position, and has no
/// error.
fn failure(error: sse_stream::Error) -> Result<(), ClientError> {
    let sse_stream::Error::Body(cause) = error else {
        return Ok(());
    };
    match cause.downcast::<ClientError>() {
        Ok(cause) if cause.is_answer() || cause.is_late() => Err(*cause),
        _lost => Ok(()),
    }
}

impl LiveFeed {
    /// The endpoint that answers.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The next message. `None` = the stream ended without a reason: the service stopped, or the
    /// connection was lost.
    ///
    /// # Errors
    /// When a message is not one of a feed, or comes too slowly.
    pub async fn next_message(&mut self) -> Result<Option<FeedMessage>, ClientError> {
        // A stream that breaks off is over in the same way as one that ends: the position tells
        // where to continue.
        while let Some(event) = self.events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => return failure(error).map(|()| None),
            };
            let kind = event.event.unwrap_or_default();
            if kind == CONFIRM {
                return Ok(Some(FeedMessage::Confirm));
            }
            // A later version may send events that are not known here, and the first frame has a
            // position alone.
            if kind != CHANGE && kind != RESYNC {
                continue;
            }
            let (Some(position), Some(data)) = (event.id, event.data) else {
                let reason = format!("an event {kind} lacks its position or its data");
                return Err(self.endpoint.unusable(reason));
            };
            return Ok(Some(if kind == CHANGE {
                FeedMessage::Change {
                    item: data,
                    position,
                }
            } else {
                FeedMessage::End {
                    end: contract::objects::from_str(&data)
                        .map_err(|error| self.endpoint.unusable(error))?,
                    position,
                }
            }));
        }
        Ok(None)
    }
}
