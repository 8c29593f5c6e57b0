//! Events from the live feed of a publisher, or of another subscriber: no broker, and nobody has to
//! reach this replica.
//!
//! It follows from the watermarks on, so what it is told has no gap; what it cannot be told any
//! more is read or loaded as always. What becomes of a change is decided where all events are
//! ([`Replica::receive`]).

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use contract::feed::{CHANGE, RESYNC};
use futures_util::StreamExt;
use sse_stream::{Sse, SseByteStream};
use tokio::time::sleep;

use crate::{Events, OriginError, Replica, origin::Cursor};

/// A connection that stood for so long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Why a feed was left.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("no revisions are counted there, so there is no feed to follow")]
    NoRevisions,
    #[error("the feed broke off")]
    BrokeOff,
    #[error("the feed ended")]
    Ended,
}

impl Replica {
    /// Follows the feed for as long as it is polled; for ever silent where events come by other
    /// ways.
    pub(crate) async fn follow_feed(&self) {
        if !matches!(self.config().events, Events::Feed) {
            return std::future::pending().await;
        }
        self.ready().await;
        let mut backoff = backoff();
        loop {
            let begun = Instant::now();
            match self.hear_feed().await {
                // It says that it cannot go on from here: the heads tell what to do, and then it is
                // asked again.
                Ok(()) => self.asked().reading.notify_one(),
                Err(left) => self.reachable(Some(&left)),
            }
            if begun.elapsed() > GOOD {
                backoff = self::backoff();
            }
            sleep(backoff.next().unwrap_or(LONGEST_WAIT)).await;
        }
    }

    /// Until it ends with the word that it cannot go on, or by failing.
    async fn hear_feed(&self) -> Result<(), Left> {
        let view = self.view();
        let Some(epoch) = view.root().epoch() else {
            return Err(Left::NoRevisions);
        };
        let held = view
            .root()
            .collections()
            .filter(|(_name, held)| held.versioned());
        let since: Cursor = held
            .map(|(name, held)| (name.clone(), held.watermark()))
            .collect();
        let answer = self.origin().live(&since, epoch).await?;
        let mut feed = pin!(SseByteStream::new(answer.bytes_stream()));
        self.reachable(None);
        loop {
            let Sse { event, data, .. } = feed
                .next()
                .await
                .ok_or(Left::Ended)?
                .map_err(|_broken| Left::BrokeOff)?;
            match (event.as_deref(), data) {
                (Some(CHANGE), Some(item)) => drop(self.receive_text(&item, None).await),
                (Some(RESYNC), _) => return Ok(()),
                // A position, or what a later version says.
                _ => {}
            }
        }
    }
}

fn backoff() -> ExponentialBackoff {
    let delays = ExponentialBuilder::new().with_jitter().without_max_times();
    delays
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(LONGEST_WAIT)
        .build()
}
