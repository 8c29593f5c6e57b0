//! One connection to a live feed: what it says, and why it broke.
//!
//! It never connects twice and never skips anything.

use std::time::Duration;

use anyhow::{Context, anyhow};
use contract::feed::{CHANGE, EVENT_STREAM, RESYNC, StreamEnd};
use futures_util::{StreamExt, stream::BoxStream};
use reqwest::{StatusCode, header};
use sse_stream::{Sse, SseByteStream};

use crate::client::{Api, Refused};

/// A feed that is well says something every 5 s.
const SILENCE: Duration = Duration::from_secs(15);

pub(super) struct Stream(BoxStream<'static, Result<Sse, sse_stream::Error>>);

/// What a feed says, and the position behind it.
pub(super) enum Said {
    Change { item: String, id: String },
    Resync { resync: StreamEnd, id: String },
}

/// Why a stream is over.
pub(super) enum Broken {
    /// It may go on in a moment.
    Passing(anyhow::Error),
    /// Asking again is of no use.
    Refused(anyhow::Error),
}

impl Stream {
    pub(super) async fn open(api: &Api, position: &str) -> Result<Self, Broken> {
        let answer = api
            .stream("/v1/changes", position, SILENCE)
            .await
            .map_err(|error| {
                let status = error
                    .downcast_ref::<Refused>()
                    .map(|refused| refused.status);
                match status {
                    Some(StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => {
                        Broken::Passing(error)
                    }
                    Some(status) if status.is_client_error() => Broken::Refused(error),
                    _ => Broken::Passing(error),
                }
            })?;
        let kind = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        if !kind.starts_with(EVENT_STREAM) {
            return Err(Broken::Refused(anyhow!(
                "{} is older than this confcast: it has no live feed",
                api.base()
            )));
        }
        Ok(Self(SseByteStream::new(answer.bytes_stream()).boxed()))
    }

    pub(super) async fn next(&mut self) -> Result<Said, Broken> {
        loop {
            let next = self
                .0
                .next()
                .await
                .ok_or_else(|| Broken::Passing(anyhow!("the stream ended")))?;
            let sse = next.map_err(|error| {
                Broken::Passing(anyhow::Error::new(error).context("the stream broke off"))
            })?;
            if let Some(said) = read(sse).map_err(Broken::Refused)? {
                return Ok(said);
            }
        }
    }
}

/// An event that is not known says nothing; one that is has data and a position.
fn read(sse: Sse) -> anyhow::Result<Option<Said>> {
    let event = sse.event.unwrap_or_default();
    if ![CHANGE, RESYNC].contains(&event.as_str()) {
        return Ok(None);
    }
    let id = sse
        .id
        .with_context(|| format!("an event {event} without a position"))?;
    let data = sse
        .data
        .with_context(|| format!("an event {event} without data"))?;
    Ok(Some(if event == CHANGE {
        Said::Change { item: data, id }
    } else {
        Said::Resync {
            resync: serde_json::from_str(&data).context("an event resync")?,
            id,
        }
    }))
}
