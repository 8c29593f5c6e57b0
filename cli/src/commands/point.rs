//! A point of the past on the command line: a revision, a time or a named snapshot.
//!
//! Which revision a time is, the publisher decides: nothing here knows a log.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use contract::{
    Revision,
    history::{Point, SnapshotName},
};

/// What a time may look like, for help texts and errors.
const FORMS: &str = "expected a time such as 2026-11-28T09:00:00Z, a day such as 2026-11-28 (its \
                     beginning in UTC), or an age such as 15m or '2h 30m ago'";

/// Which moment a command shows; the present when none is given.
#[derive(Debug, Default, clap::Args)]
#[group(multiple = false)]
pub(super) struct AtPoint {
    /// As it was after this revision of the collection
    #[arg(long, value_name = "REVISION")]
    revision: Option<Revision>,
    /// As it was at this time: 2026-11-28T09:00:00Z, 2026-11-28 (0:00 UTC), 15m or '2h 30m ago'
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    at: Option<DateTime<Utc>>,
    /// As it was when this named snapshot was made
    #[arg(long, value_name = "NAME")]
    snapshot: Option<SnapshotName>,
}

impl AtPoint {
    /// The point; none for the present.
    pub(super) fn point(&self) -> Option<Point> {
        let revision = self.revision.map(Point::Revision);
        let time = || self.at.map(Point::Time);
        let snapshot = || self.snapshot.clone().map(Point::Snapshot);
        revision.or_else(time).or_else(snapshot)
    }
}

/// A time of RFC 3339, the beginning of a day in UTC, or an age by the clock of this machine.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    time_at(text, Utc::now()).ok_or_else(|| FORMS.to_owned())
}

fn time_at(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if text == "now" {
        return Some(now);
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Some(day.and_time(NaiveTime::MIN).and_utc());
    }
    let age = text.strip_suffix("ago").unwrap_or(text).trim();
    let age: Duration = humantime::parse_duration(age.strip_prefix('-').unwrap_or(age)).ok()?;
    now.checked_sub_signed(chrono::Duration::from_std(age).ok()?)
}

/// A time as it is shown: in UTC, with milliseconds.
pub(super) fn shown_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_days_and_ages_are_read() {
        let now = "2026-11-28T12:00:00Z".parse().expect("a time");
        for (text, expected) in [
            ("2026-11-28T09:00:00.5Z", "2026-11-28T09:00:00.500Z"),
            ("2026-11-28T09:00:00+02:00", "2026-11-28T07:00:00.000Z"),
            ("2026-11-28", "2026-11-28T00:00:00.000Z"),
            ("15m", "2026-11-28T11:45:00.000Z"),
            ("-15m", "2026-11-28T11:45:00.000Z"),
            ("2h 30m ago", "2026-11-28T09:30:00.000Z"),
            ("2days", "2026-11-26T12:00:00.000Z"),
            ("now", "2026-11-28T12:00:00.000Z"),
        ] {
            let time = time_at(text, now).map(shown_time);
            assert_eq!(time.as_deref(), Some(expected), "{text}");
        }
        for text in ["", "yesterday", "15", "--15m", "2026-13-01", "99999999999y"] {
            assert_eq!(time_at(text, now), None, "{text}");
        }
    }
}
