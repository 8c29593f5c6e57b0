//! Events from the live feed of a publisher, or of another subscriber: no broker, and nothing has
//! to reach this replica.
//!
//! The feed starts after the watermarks, so its events have no gap; what it can no longer give is
//! caught up or loaded as always. It never decides what becomes of a change: see
//! [`Intake`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use client::{ClientError, RetryPolicy, live_feed::FeedMessage};
use contract::Epoch;
use tokio::time::sleep;

use super::{EventSource, Intake, IntakeConnection};
use crate::{Events, source::Cursor, typed::Typed};

/// After a connection that stood for this long the next attempt comes soon.
const STABLE: Duration = Duration::from_secs(5);

/// Why a feed ended.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    /// The feed could not be opened, or a message of it cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nothing with revisions is held, so there is no position to start from.
    #[error("the publisher counts no revisions, so it has no live feed")]
    NoRevisions,
    /// The service stopped, or the connection was lost.
    #[error("the live feed ended")]
    Ended,
}

/// Receives the events of a live feed.
#[derive(Debug)]
pub(crate) struct FeedIntake {
    /// Decides what becomes of each change.
    pub(crate) intake: Arc<Intake>,
    /// Tells when the first load is done: there is no position to start from before that.
    pub(crate) typed: Arc<Typed>,
    /// Notes and logs whether the feed is connected.
    pub(crate) connection: IntakeConnection,
}

impl FeedIntake {
    /// Receives events and never ends. It does nothing where events have another source.
    pub(crate) async fn run(&self) {
        if !matches!(self.intake.config.events, Events::Feed) {
            return std::future::pending().await;
        }
        self.typed.loaded().await;
        let mut waits = RetryPolicy::REPLICA_FEED.waits();
        loop {
            let started = Instant::now();
            match self.receive().await {
                // The feed cannot go on from here. The check-in finds out what to do, and then the
                // feed is requested again.
                Ok(()) => self.intake.signals.request_check_in(),
                Err(error) => self.connection.disconnected(&error),
            }
            // A feed that breaks at once, again and again, is asked for less and less often.
            if started.elapsed() > STABLE {
                waits.reset();
            }
            sleep(waits.next_wait()).await;
        }
    }

    /// The watermarks that the next feed begins at, and the epoch that they count in; `None` while
    /// nothing is held that has revisions. What is held beyond a gap comes again, and counts as a
    /// duplicate.
    fn position(&self) -> Option<(Cursor, Epoch)> {
        let view = self.intake.cache.view_guard();
        let collections = view.root().collections();
        let since = collections
            .filter(|(name, held)| held.versioned() && view.is_served(name))
            .map(|(name, held)| (name.clone(), held.watermark()))
            .collect();
        Some((since, view.root().epoch()?))
    }

    /// Receives events until the feed says that it cannot go on, or fails.
    ///
    /// # Errors
    /// When the feed cannot be opened, or it ends without saying why.
    async fn receive(&self) -> Result<(), FeedError> {
        let (since, epoch) = self.position().ok_or(FeedError::NoRevisions)?;
        let mut feed = self.intake.source.live_feed(&since, epoch).await?;
        self.connection.connected();
        loop {
            let message = tokio::select! {
                message = feed.next_message() => {
                    // Another publisher may have a better one.
                    message.inspect_err(|_error| self.intake.source.avoid(feed.endpoint()))?
                }
                // A collection joined, or events do not come: the next feed begins with all of them.
                () = self.intake.signals.reconnect() => return Ok(()),
            };
            match message {
                Some(FeedMessage::Change { item, .. }) => {
                    // A feed has no answer: what fails leaves a gap, which is closed.
                    drop(
                        self.intake
                            .receive_text(EventSource::Feed, &item, None)
                            .await,
                    );
                }
                Some(FeedMessage::Confirm) => self.intake.signals.confirmation_wanted(),
                // The feed cannot go on from its position: the check-in finds out why.
                Some(FeedMessage::End { .. }) => return Ok(()),
                None => return Err(FeedError::Ended),
            }
        }
    }
}
