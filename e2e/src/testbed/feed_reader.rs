//! A reader of the live feed for tests: one connection, and its events in the order of their
//! arrival.
//!
//! It never reconnects: a test says where to continue.

use std::time::Duration;

use anyhow::{Context, ensure};
use contract::{EventData, feed::StreamEnd};
use futures_util::{StreamExt, stream::BoxStream};
use reqwest::header;
use serde_json::Value;
use sse_stream::{Sse, SseByteStream};
use tokio::time::timeout;

use crate::testbed::wait::TIMEOUT;

/// One stream of the feed (`text/event-stream`).
pub struct FeedReader {
    events: BoxStream<'static, Result<Sse, sse_stream::Error>>,
    /// The id of the newest event: the position at which a reader continues.
    pub id: String,
}

/// One event of a stream.
#[derive(Debug)]
pub enum FeedEvent {
    /// A change: the JSON as it arrived, and the same as the type that fits all kinds of feeds.
    Change(Value, Box<EventData>),
    /// The stream cannot continue; the reader has to load again.
    Resync(StreamEnd),
    /// The stream has ended.
    End,
}

impl FeedReader {
    /// Opens a feed at the position in the query of the path.
    ///
    /// # Errors
    /// When the stream does not begin.
    pub async fn from(url: &str, path: &str) -> anyhow::Result<Self> {
        Self::open(url, path, None).await
    }

    /// Opens a feed after the position of an earlier event.
    ///
    /// # Errors
    /// When the stream does not begin.
    pub async fn after(url: &str, path: &str, id: &str) -> anyhow::Result<Self> {
        Self::open(url, path, Some(id)).await
    }

    async fn open(url: &str, path: &str, id: Option<&str>) -> anyhow::Result<Self> {
        let client = crate::http().no_proxy().build()?;
        let mut request = client
            .get(format!("{url}{path}"))
            .header(header::ACCEPT, "text/event-stream");
        if let Some(id) = id {
            request = request.header("Last-Event-ID", id);
        }
        let answer = request.send().await?.error_for_status()?;
        let kind = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .context("a content type")?;
        ensure!(kind == "text/event-stream", "{kind:?}");
        let events = SseByteStream::new(answer.bytes_stream()).boxed();
        let mut follower = Self {
            events,
            id: String::new(),
        };
        let start = follower.raw().await?.context("a first frame")?;
        ensure!(
            start.event.is_none() && start.data.is_none() && !follower.id.is_empty(),
            "{start:?}"
        );
        Ok(follower)
    }

    async fn raw(&mut self) -> anyhow::Result<Option<Sse>> {
        let sse = timeout(TIMEOUT, self.events.next())
            .await
            .context("the stream says nothing")?
            .transpose()?;
        if let Some(id) = sse.as_ref().and_then(|sse| sse.id.clone()) {
            self.id = id;
        }
        Ok(sse)
    }

    /// The next event.
    ///
    /// # Errors
    /// When no event arrives in time, the connection breaks, or the event is not understood.
    pub async fn next(&mut self) -> anyhow::Result<FeedEvent> {
        // `confirm` asks replicas for a check-in; other readers skip it.
        let (event, data) = loop {
            match self.raw().await? {
                None => return Ok(FeedEvent::End),
                Some(Sse { event, .. }) if event.as_deref() == Some("confirm") => {}
                Some(Sse { event, data, .. }) => break (event, data),
            }
        };
        let data = data.context("an event without data")?;
        Ok(match event.as_deref() {
            Some("change") => {
                FeedEvent::Change(serde_json::from_str(&data)?, serde_json::from_str(&data)?)
            }
            Some("resync") => FeedEvent::Resync(serde_json::from_str(&data)?),
            other => anyhow::bail!("an event {other:?}: {data}"),
        })
    }

    /// The next event, which must be a change.
    ///
    /// # Errors
    /// When it is another event, or none arrives.
    pub async fn change(&mut self) -> anyhow::Result<(Value, EventData)> {
        match self.next().await? {
            FeedEvent::Change(raw, data) => Ok((raw, *data)),
            other => anyhow::bail!("{other:?} instead of a change"),
        }
    }

    /// The next event, which must be the reason for the end of the stream. The stream must then
    /// end.
    ///
    /// # Errors
    /// When the stream continues.
    pub async fn resync(&mut self) -> anyhow::Result<StreamEnd> {
        let FeedEvent::Resync(resync) = self.next().await? else {
            anyhow::bail!("no resync")
        };
        ensure!(matches!(self.next().await?, FeedEvent::End), "it goes on");
        Ok(resync)
    }

    /// Whether no event arrives for this time.
    pub async fn quiet(&mut self, time: Duration) -> bool {
        timeout(time, self.events.next()).await.is_err()
    }
}
