//! The feed as server-sent events: the changes after a position, and then every change as it
//! becomes visible.
//!
//! A stream holds at most one read of changes, and reads again only after its reader took them: a
//! slow reader costs no more than a fast one. A source that cannot be read is awaited; a position
//! that cannot continue without a gap ends the stream with `resync`.

use std::{collections::VecDeque, fmt::Display, future::Future, time::Duration};

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::header::{CACHE_CONTROL, VARY},
};
use bytes::Bytes;
use contract::{
    Epoch,
    feed::{
        self, CHANGE, CONFIRM_FRAME, EVENT_STREAM, FeedGoneError, FeedScope, RESYNC, Since,
        StreamEnd,
    },
};
use tokio::time::{Instant, sleep_until};

use super::{FeedError, FeedItem, FeedLimits, FeedView, heads_of, json, next_changes};
use crate::http::stream_slots::{FrameSource, StreamSlot};

/// A frame ends with the first change that reaches this size, in bytes.
const FRAME_BYTES: usize = 64 << 10;

/// The views of a feed, one after the other, as it grows. Each stream has its own.
pub trait FeedViews {
    /// The heads and changes of one moment.
    type View: FeedView<Unavailable: Display>;

    /// Limits of one read of a stream; small, because many streams may be open.
    const LIMITS: FeedLimits;
    /// A reader may be ahead of the feed for this long: it may come from a replica that is further.
    const AHEAD_GRACE: Duration;

    /// The newest view. [`FeedViews::changed`] reports views that are newer than this one.
    fn newest(&mut self) -> Self::View;

    /// Waits for a newer view. `false` means that there will be none.
    fn changed(&mut self) -> impl Future<Output = bool>;

    /// Whether a request waits until readers have applied its change.
    fn is_awaited(&self) -> bool {
        false
    }
}

/// A stream that is about to begin.
#[derive(Debug)]
pub struct LiveStart {
    /// Which feed.
    pub scope: FeedScope,
    /// The history that `since` counts in.
    pub epoch: Epoch,
    /// The position that the stream continues from.
    pub since: Since,
}

/// The answer that streams the feed: first a frame with the position and no event, then changes.
/// Headers that `answer` has already are kept.
///
/// The caller has checked the position, so that a position that cannot continue is answered 410 and
/// not with a stream.
pub fn stream(
    views: impl FeedViews + 'static,
    start: LiveStart,
    slot: StreamSlot,
    mut answer: HttpResponseBuilder,
) -> HttpResponse {
    let LiveStart {
        scope,
        epoch,
        since,
    } = start;
    let first = feed::start_frame(&scope.id(epoch, &since)).into();
    let live = Live {
        views,
        scope,
        epoch,
        since,
        unsent: VecDeque::new(),
        ahead_until: None,
        ended: false,
    };
    answer
        .insert_header((VARY, "Accept"))
        .insert_header((CACHE_CONTROL, "no-store, no-transform"))
        // A proxy that compresses would keep frames until its buffer is full (RFC 9111 section
        // 5.2.2.6). nginx and other proxies pass on each frame at once.
        .insert_header(("X-Accel-Buffering", "no"))
        .content_type(EVENT_STREAM)
        .streaming(slot.stream(first, live))
}

/// One stream.
struct Live<V: FeedViews> {
    views: V,
    /// Decides the form of event ids.
    scope: FeedScope,
    /// The epoch of all changes of the stream; another one ends it.
    epoch: Epoch,
    /// The position after the last change that was sent.
    since: Since,
    /// Changes that were read and not sent yet.
    unsent: VecDeque<<V::View as FeedView>::Item>,
    /// Until when the reader may be ahead.
    ahead_until: Option<Instant>,
    /// Whether `resync` was sent: nothing follows it.
    ended: bool,
}

impl<V: FeedViews> FrameSource for Live<V> {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            if !self.unsent.is_empty() {
                return Some(self.frame());
            }
            let view = self.views.newest();
            let heads = heads_of(&view, &self.since);
            let read = next_changes(&view, &heads, &self.since, Some(self.epoch), V::LIMITS).await;
            // A view may hold much memory: it is not kept while the stream waits.
            drop(view);
            let mut ahead_until = None;
            match read {
                // The log is in a newer epoch than the heads: newer heads will come.
                Ok(items) if items.iter().any(|item| item.epoch() > Some(self.epoch)) => {}
                Ok(items) if !items.is_empty() => {
                    self.ahead_until = None;
                    self.unsent = items.into();
                    continue;
                }
                // The reader has everything: wait for a newer view.
                Ok(_nothing_new) => {}
                // The grace begins when the reader is first found ahead, and is not extended.
                Err(FeedError::Gone(FeedGoneError::Ahead { .. })) if self.may_be_ahead() => {
                    let until = self
                        .ahead_until
                        .unwrap_or_else(|| Instant::now() + V::AHEAD_GRACE);
                    ahead_until = Some(until);
                }
                // The reader has to load a snapshot; the heads in the event say from which position it
                // can follow the feed afterwards.
                Err(FeedError::Gone(gone)) => {
                    self.ended = true;
                    let reason = gone.reason().to_owned();
                    let position = feed::at_heads(&heads);
                    let id = position.map(|(epoch, since)| self.scope.id(epoch, &since));
                    let end = StreamEnd { reason, heads };
                    return Some(feed::frame(RESYNC, &id.unwrap_or_default(), &json(&end)).into());
                }
                // Temporary: the stream stays open and tries again with the next view.
                Err(FeedError::Unavailable(error)) => {
                    tracing::debug!("a stream of the feed waits until it can be read: {error:#}");
                }
            }
            self.ahead_until = ahead_until;
            tokio::select! {
                changed = self.views.changed() => {
                    if !changed {
                        return None;
                    }
                }
                () = sleep_until(ahead_until.unwrap_or_else(Instant::now)),
                    if ahead_until.is_some() => {}
            }
        }
        None
    }
}

impl<V: FeedViews> Live<V> {
    /// Whether a reader that is ahead of the feed may still wait for it.
    fn may_be_ahead(&self) -> bool {
        match self.ahead_until {
            Some(until) => Instant::now() < until,
            None => !V::AHEAD_GRACE.is_zero(),
        }
    }

    /// The next frame: as many unsent changes as fit, each with the position after it as its id.
    fn frame(&mut self) -> Bytes {
        let mut out = String::new();
        while out.len() < FRAME_BYTES
            && let Some(item) = self.unsent.pop_front()
        {
            self.since
                .insert(item.collection().clone(), item.revision());
            out += &feed::frame(
                CHANGE,
                &self.scope.id(self.epoch, &self.since),
                &item.json(),
            );
        }
        // After the last change of a read: a reader that is behind would report too early.
        if self.unsent.is_empty() && self.views.is_awaited() {
            out += CONFIRM_FRAME;
        }
        out.into()
    }
}
