//! The feed as server-sent events: what the ring holds after a position, and then every change once
//! the watermark has reached it.
//!
//! A stream keeps no changes of its own: it reads the newest view when its reader has taken what
//! came before.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use bytes::Bytes;
use contract::{
    Epoch,
    feed::{self, CHANGE, EVENT_STREAM, FeedGoneError, FeedScope, RESYNC, Since, StreamEnd},
};
use replica::{Replica, View};
use service::streams::{FrameSource, PeerConnection};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{AppState, Position, about, about_all, changes, followed, head_of, header, heads};
use crate::error::ApiError;

/// Changes and bytes of a piece.
const PIECE: (usize, usize) = (256, 64 << 10);
/// A reader that comes from another replica may be ahead of this one for a moment.
const AHEAD: Duration = Duration::from_secs(2);

pub(super) fn answer(
    request: &HttpRequest,
    state: &web::Data<AppState>,
    view: &View,
    scope: FeedScope,
    position: &Position,
) -> Result<HttpResponse, ApiError> {
    let asked = asked(&scope, position, request)?;
    if let Some((_epoch, since)) = &asked {
        heads(view, since)?;
    }
    let now = view.root().epoch().ok_or_else(ApiError::loading)?;
    let (epoch, since) = asked.map_or_else(
        || (now, present(view, &scope)),
        |(epoch, since)| (epoch.unwrap_or(now), since),
    );
    let place = state
        .streams
        .begin(request.conn_data::<PeerConnection>().cloned())
        .ok_or_else(ApiError::streams_full)?;
    let mut answer = match &scope {
        FeedScope::One(name) => {
            followed(view, name.as_str()).map(|(name, held)| about(view, &name, held))?
        }
        FeedScope::Several => about_all(view),
    };
    answer
        .insert_header((header::VARY, "Accept"))
        .insert_header((header::CACHE_CONTROL, "no-store"));
    // What nginx and its likes understand: pass on what comes as it comes.
    answer.insert_header(("X-Accel-Buffering", "no"));
    let first = feed::start_frame(&scope.id(epoch, &since)).into();
    let (replica, moved) = (state.replica.clone(), state.replica.feed_changed());
    let live = Live {
        replica,
        moved,
        scope,
        epoch,
        since,
        ahead: None,
        ended: false,
    };
    Ok(answer
        .content_type(EVENT_STREAM)
        .streaming(place.stream(first, live)))
}

/// Where the reader is: what it heard last, else what the query says, else nowhere.
fn asked(
    scope: &FeedScope,
    position: &Position,
    request: &HttpRequest,
) -> Result<Option<(Option<Epoch>, Since)>, ApiError> {
    if let Some(id) = header(request, "Last-Event-ID")?.filter(|id| !id.is_empty()) {
        let (epoch, since) = scope
            .position(&id)
            .map_err(|error| ApiError::bad_request("Last-Event-ID", error))?;
        return Ok(Some((Some(epoch), since)));
    }
    let epoch = position.epoch()?;
    Ok(position.since(scope)?.map(|since| (epoch, since)))
}

/// The watermarks of all collections that the feed is about.
fn present(view: &View, scope: &FeedScope) -> Since {
    let of_scope = |name: &contract::CollectionName| match scope {
        FeedScope::One(only) => only == name,
        FeedScope::Several => true,
    };
    let all = view
        .root()
        .collections()
        .filter(|(name, held)| of_scope(name) && head_of(view, name, held).is_some());
    all.map(|(name, held)| (name.clone(), held.watermark()))
        .collect()
}

/// One stream.
struct Live {
    replica: Replica,
    moved: watch::Receiver<u64>,
    scope: FeedScope,
    epoch: Epoch,
    /// What was sent.
    since: Since,
    /// Until when the reader may be ahead.
    ahead: Option<Instant>,
    ended: bool,
}

impl FrameSource for Live {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            self.moved.mark_unchanged();
            let view = self.replica.view();
            // What is followed stays followed, and what counted revisions once does so for good.
            let heads = heads(&view, &self.since).ok()?;
            let until = match changes(&view, &heads, &self.since, Some(self.epoch), PIECE) {
                Ok(items) if !items.is_empty() => return Some(self.piece(&items)),
                Ok(_nothing_new) => None,
                Err(FeedGoneError::Ahead { .. })
                    if self.ahead.is_none_or(|until| Instant::now() < until) =>
                {
                    Some(*self.ahead.get_or_insert_with(|| Instant::now() + AHEAD))
                }
                Err(gone) => {
                    self.ended = true;
                    let id =
                        feed::at_heads(&heads).map(|(epoch, since)| self.scope.id(epoch, &since));
                    let resync = StreamEnd {
                        reason: gone.reason().to_owned(),
                        heads,
                    };
                    return Some(feed::frame(RESYNC, &id.unwrap_or_default(), &resync).into());
                }
            };
            self.ahead = until;
            // Not held while it waits.
            drop(view);
            let soon = until.unwrap_or_else(Instant::now);
            tokio::select! {
                moved = self.moved.changed() => moved.ok()?,
                () = sleep_until(soon), if until.is_some() => {}
            }
        }
        None
    }
}

impl Live {
    fn piece(&mut self, items: &[contract::EventData]) -> Bytes {
        self.ahead = None;
        let mut out = String::new();
        for item in items {
            self.since
                .insert(item.collection.clone(), item.revision.unwrap_or_default());
            out += &feed::frame(CHANGE, &self.scope.id(self.epoch, &self.since), item);
        }
        out.into()
    }
}
