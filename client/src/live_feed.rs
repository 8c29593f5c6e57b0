//! The live form of the change feed: a stream of server-sent events.
//!
//! It reads one connection to its end. Reconnecting, and from which position, is the caller's
//! decision.

use std::fmt;

use contract::{
    Epoch,
    feed::{CHANGE, CONFIRM, EVENT_STREAM, RESYNC, Since, StreamEnd},
};
use futures_util::{StreamExt, stream::BoxStream};
use reqwest::{
    Response,
    header::{ACCEPT, CONTENT_TYPE},
};
use sse_stream::{Sse, SseByteStream};

use crate::{ClientError, Endpoint, feed::page_path};

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
            events: SseByteStream::new(response.bytes_stream()).boxed(),
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

impl LiveFeed {
    /// The next message. `None` = the stream ended without a reason: the service stopped, or the
    /// connection was lost.
    ///
    /// # Errors
    /// When a message is not one of a feed.
    pub async fn next_message(&mut self) -> Result<Option<FeedMessage>, ClientError> {
        // A stream that breaks off is over in the same way as one that ends: the position tells
        // where to continue.
        while let Some(Ok(event)) = self.events.next().await {
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
