//! Events from the live feed of a publisher, or of another subscriber: no broker, and nothing has
//! to reach this replica.
//!
//! The feed starts after the watermarks, so its events have no gap; what it can no longer give is
//! caught up or loaded as always. It never decides what becomes of a change: see
//! [`Intake`](super::Intake).

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use contract::feed::{CHANGE, RESYNC};
use futures_util::StreamExt;
use sse_stream::{Sse, SseByteStream};
use tokio::time::sleep;

use super::{Intake, IntakeConnection};
use crate::{Events, OriginError, origin::Cursor, typed::Typed};

/// After a connection that stood for this long the next attempt comes soon.
const STABLE: Duration = Duration::from_secs(5);
const MIN_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Why a feed ended.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("the publisher counts no revisions, so it has no live feed")]
    NoRevisions,
    #[error("the connection of the live feed broke")]
    Broken,
    #[error("the live feed ended")]
    Ended,
}

/// Receives the events of a live feed.
#[derive(Debug)]
pub(crate) struct FeedIntake {
    pub(crate) intake: Arc<Intake>,
    pub(crate) typed: Arc<Typed>,
    pub(crate) connection: IntakeConnection,
}

impl FeedIntake {
    /// Receives events and never ends. It does nothing where events have another source.
    pub(crate) async fn run(&self) {
        if !matches!(self.intake.config.events, Events::Feed) {
            return std::future::pending().await;
        }
        self.typed.ready().await;
        let mut waits = waits();
        loop {
            let started = Instant::now();
            match self.receive().await {
                // The feed cannot go on from here. The check-in finds out what to do, and then the
                // feed is requested again.
                Ok(()) => self.intake.signals.request_check_in(),
                Err(error) => self.connection.disconnected(&error),
            }
            if started.elapsed() > STABLE {
                waits = self::waits();
            }
            sleep(waits.next().unwrap_or(MAX_WAIT)).await;
        }
    }

    /// Receives events until the feed says that it cannot go on, or fails.
    async fn receive(&self) -> Result<(), FeedError> {
        let view = self.intake.cache.view();
        let Some(epoch) = view.root().epoch() else {
            return Err(FeedError::NoRevisions);
        };
        let since: Cursor = view
            .root()
            .collections()
            .filter(|(_name, held)| held.versioned())
            .map(|(name, held)| (name.clone(), held.watermark()))
            .collect();
        let response = self.intake.origin.live(&since, epoch).await?;
        let mut feed = pin!(SseByteStream::new(response.bytes_stream()));
        self.connection.connected();
        loop {
            let Sse { event, data, .. } = feed
                .next()
                .await
                .ok_or(FeedError::Ended)?
                .map_err(|_error| FeedError::Broken)?;
            match (event.as_deref(), data) {
                (Some(CHANGE), Some(item)) => {
                    // A feed has no answer: what fails leaves a gap, which is closed.
                    drop(self.intake.receive_text("feed", &item, None).await);
                }
                (Some(RESYNC), _) => return Ok(()),
                // A position, or an event of a later version.
                _ => {}
            }
        }
    }
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_jitter()
        .without_max_times()
        .with_min_delay(MIN_WAIT)
        .with_max_delay(MAX_WAIT)
        .build()
}
