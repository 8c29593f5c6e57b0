//! The feed as server-sent events: from a position on to the present, and then every change as it
//! is committed.
//!
//! A stream reads the log itself, a small page at a time and only when its reader has taken the
//! last one, so a slow reader costs no more than a fast one. A store that does not answer is waited
//! for; what cannot follow without a gap ends it.

use std::collections::VecDeque;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use bytes::Bytes;
use contract::{
    Change, Epoch, Head,
    feed::{self, CHANGE, EVENT_STREAM, FeedScope, RESYNC, Since, StreamEnd},
};
use service::streams::{FrameSource, PeerConnection};
use tokio::sync::watch;

use crate::api::{
    error::ApiError,
    feed::{Api, Halt, Position, header_text},
    feed_watch::Reading,
};

/// A page of a stream is smaller than one that is asked for: there may be a thousand of them in
/// memory.
const PAGE: (usize, usize) = (256, 256 << 10);
/// A piece ends with the first change that reaches this size.
const PIECE: usize = 64 << 10;

pub(super) async fn answer(
    api: web::Data<Api>,
    scope: FeedScope,
    position: &Position,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked = asked(&scope, position, request)?;
    if let Some((_epoch, since)) = &asked {
        api.known(since)?;
    }
    let place = api
        .streams
        .begin(request.conn_data::<PeerConnection>().cloned());
    let place = place.ok_or_else(|| {
        api.metrics.streams_refused.inc();
        ApiError::streams_full()
    })?;
    let (readings, first) = api.feed.follow().await;
    let heads = first.heads.ok_or_else(ApiError::store_unavailable)?;
    let of_scope = |head: &&Head| match &scope {
        FeedScope::One(name) => head.collection == *name,
        FeedScope::Several => true,
    };
    let present = feed::at_heads(&heads.iter().filter(of_scope).cloned().collect::<Vec<_>>());
    let (now, present) = present.ok_or_else(ApiError::store_unavailable)?;
    let (epoch, since) = asked.map_or((now, present), |(epoch, since)| {
        (epoch.unwrap_or(now), since)
    });
    let first = feed::start_frame(&scope.id(epoch, &since)).into();
    let live = Live {
        api,
        scope,
        readings,
        heads,
        epoch,
        since,
        page: VecDeque::new(),
        ended: false,
    };
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header((header::VARY, "Accept"))
        .insert_header((header::CACHE_CONTROL, "no-store"));
    // What nginx and its likes understand: pass on what comes as it comes.
    answer.insert_header(("X-Accel-Buffering", "no"));
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
    if let Some(id) = header_text(request, "Last-Event-ID")?.filter(|id| !id.is_empty()) {
        let (epoch, since) = scope
            .position(&id)
            .map_err(|error| ApiError::bad_field("Last-Event-ID", error))?;
        return Ok(Some((Some(epoch), since)));
    }
    let epoch = position.epoch()?;
    Ok(position.since(scope)?.map(|since| (epoch, since)))
}

/// One stream.
struct Live {
    api: web::Data<Api>,
    scope: FeedScope,
    readings: watch::Receiver<Reading>,
    /// The newest heads that were read.
    heads: std::sync::Arc<[Head]>,
    epoch: Epoch,
    /// What was sent.
    since: Since,
    /// What is to be sent next.
    page: VecDeque<Change>,
    ended: bool,
}

impl FrameSource for Live {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            if !self.page.is_empty() {
                return Some(self.piece());
            }
            match self
                .api
                .changes(&self.heads, &self.since, Some(self.epoch), PAGE)
                .await
            {
                // The heads are those of a history that was left a moment ago.
                Ok(page) if page.iter().any(|change| change.epoch > self.epoch) => {}
                Ok(page) if !page.is_empty() => {
                    self.page = page.into();
                    continue;
                }
                Ok(_nothing_new) => {}
                Err(Halt::Gone(gone)) => {
                    self.ended = true;
                    return Some(self.resync(gone.reason()));
                }
                Err(Halt::Store(error)) => {
                    tracing::debug!("a stream waits for the store: {error:#}")
                }
            }
            self.readings.changed().await.ok()?;
            if let Some(heads) = self.readings.borrow_and_update().heads.clone() {
                self.heads = heads;
            }
        }
        None
    }
}

impl Live {
    fn piece(&mut self) -> Bytes {
        let mut out = String::new();
        while out.len() < PIECE
            && let Some(change) = self.page.pop_front()
        {
            self.since
                .insert(change.collection.clone(), change.revision);
            out += &feed::frame(CHANGE, &self.scope.id(self.epoch, &self.since), &change);
        }
        out.into()
    }

    fn resync(&self, reason: &str) -> Bytes {
        let heads: Vec<_> = self
            .heads
            .iter()
            .filter(|head| self.since.contains_key(&head.collection))
            .cloned()
            .collect();
        let id = feed::at_heads(&heads)
            .map(|(epoch, since)| self.scope.id(epoch, &since))
            .unwrap_or_default();
        feed::frame(
            RESYNC,
            &id,
            &StreamEnd {
                reason: reason.to_owned(),
                heads,
            },
        )
        .into()
    }
}
