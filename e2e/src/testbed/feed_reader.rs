//! A reader of the live feed, for tests: one connection, and what came over it as it came.
//!
//! It never comes back by itself: a test says where it goes on.

use std::time::Duration;

use anyhow::{Context, ensure};
use contract::{EventData, feed::StreamEnd};
use futures_util::{StreamExt, stream::BoxStream};
use reqwest::{Client, header};
use serde_json::Value;
use sse_stream::{Sse, SseByteStream};
use tokio::time::timeout;

use crate::testbed::wait::TIMEOUT;

/// One stream of the feed.
pub struct FeedReader {
    events: BoxStream<'static, Result<Sse, sse_stream::Error>>,
    /// The position that it would come back to.
    pub id: String,
}

/// What a stream says.
#[derive(Debug)]
pub enum FeedEvent {
    /// A change: as it came, and as whoever reads all kinds of feeds sees it.
    Change(Value, Box<EventData>),
    /// It cannot go on.
    Resync(StreamEnd),
    /// It is over.
    End,
}

impl FeedReader {
    /// Follows a feed from where the query says.
    ///
    /// # Errors
    /// When it does not begin.
    pub async fn from(url: &str, path: &str) -> anyhow::Result<Self> {
        Self::open(url, path, None).await
    }

    /// Follows a feed from a position that was heard before.
    ///
    /// # Errors
    /// When it does not begin.
    pub async fn after(url: &str, path: &str, id: &str) -> anyhow::Result<Self> {
        Self::open(url, path, Some(id)).await
    }

    async fn open(url: &str, path: &str, id: Option<&str>) -> anyhow::Result<Self> {
        let client = Client::builder().no_proxy().build()?;
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

    /// What it says next.
    ///
    /// # Errors
    /// When it says nothing for long, breaks off, or cannot be understood.
    pub async fn next(&mut self) -> anyhow::Result<FeedEvent> {
        let Some(Sse { event, data, .. }) = self.raw().await? else {
            return Ok(FeedEvent::End);
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

    /// The next change.
    ///
    /// # Errors
    /// When there is none.
    pub async fn change(&mut self) -> anyhow::Result<(Value, EventData)> {
        match self.next().await? {
            FeedEvent::Change(raw, data) => Ok((raw, *data)),
            other => anyhow::bail!("{other:?} instead of a change"),
        }
    }

    /// The reason why it cannot go on, after which it ends.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn resync(&mut self) -> anyhow::Result<StreamEnd> {
        let FeedEvent::Resync(resync) = self.next().await? else {
            anyhow::bail!("no resync")
        };
        ensure!(matches!(self.next().await?, FeedEvent::End), "it goes on");
        Ok(resync)
    }

    /// Whether it is quiet for so long.
    pub async fn quiet(&mut self, time: Duration) -> bool {
        timeout(time, self.events.next()).await.is_err()
    }
}
