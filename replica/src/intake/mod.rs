//! How events come in: from the routes of a sidecar, from a live feed, from Redis, or from the
//! service that embeds the replica.
//!
//! Every event ends in [`Intake`], which decides what becomes of it. The sources are objects that
//! are handed the cache and the client of the publishers; none of them knows the handle of the
//! replica, and none decides which history is followed.

mod apply;
#[cfg(feature = "actix")]
mod cloudevent;
mod connection;
#[cfg(feature = "actix")]
pub mod dapr;
mod delivery_stats;
mod drop_reports;
mod event_keys;
mod event_source;
mod feed;
mod id_only;
mod outcome;
mod receive;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod stats;
mod unconfirmed;
mod unversioned;
mod without_effect;

pub(crate) use connection::IntakeConnection;
pub(crate) use delivery_stats::DeliveryStats;
pub(crate) use drop_reports::DropReports;
pub use event_keys::{EventKeys, EventKeysError};
pub(crate) use event_source::EventSource;
pub(crate) use feed::FeedIntake;
pub(crate) use id_only::IdOnlyCollections;
#[cfg(feature = "redis")]
pub(crate) use id_only::is_id_only;
pub use outcome::EventOutcome;
pub(crate) use receive::Intake;
#[cfg(feature = "redis")]
pub(crate) use redis::RedisIntake;
pub(crate) use stats::{Stats, StatsSnapshot};
pub(crate) use unconfirmed::{UnconfirmedClaims, drop_refuted};
pub(crate) use unversioned::UnversionedIntake;

/// The same request read in both ways.
#[cfg(feature = "actix")]
pub(crate) fn read_both(
    headers: &actix_web::http::header::HeaderMap,
    body: &[u8],
) -> crate::fuzz_support::ReadEvent {
    crate::fuzz_support::ReadEvent {
        fast: cloudevent::parse_change(headers, body),
        slow: cloudevent::read(headers, body)
            .map(|event| event.data)
            .map_err(|error| error.to_string()),
    }
}
