//! Waiting until replicas have applied a write: what a request asks for (`?wait=all&timeout=5s`), and
//! what its answer says.
//!
//! A replica has applied a write when its watermark has reached the revision of it, and its service
//! took the value. Nothing here waits.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    ids::{FormatError, Revision},
    status::is_zero,
};

/// How long a request waits that names no time.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time for which a request may wait.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// Most replicas that an answer names one by one.
pub const MAX_NAMED: usize = 100;

/// How many of the live replicas are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// All of them.
    All,
    /// This many. It is not reached while fewer are live.
    Replicas(u32),
    /// This part of them, in percent, rounded up.
    Percent(u8),
}

impl WaitFor {
    /// The number of replicas that must have applied the write, where `live` follow its collections.
    pub fn needed(self, live: usize) -> usize {
        match self {
            Self::All => live,
            Self::Replicas(number) => usize::try_from(number).unwrap_or(usize::MAX),
            Self::Percent(percent) => live.saturating_mul(usize::from(percent)).div_ceil(100),
        }
    }
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Replicas(number) => number.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for WaitFor {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let error = || {
            FormatError::new(
                "wait",
                text,
                "all, a number of replicas, or a part of them from 1% to 100%",
            )
        };
        if text == "all" {
            return Ok(Self::All);
        }
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _other => Err(error()),
            },
            None => match text.parse() {
                Ok(number @ 1..) => Ok(Self::Replicas(number)),
                _other => Err(error()),
            },
        }
    }
}

impl Serialize for WaitFor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WaitFor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Reads a time to wait: `5s` or `500ms`, at most [`MAX_TIMEOUT`].
///
/// # Errors
/// When the text is of another form, or the time is longer.
pub fn timeout(text: &str) -> Result<Duration, FormatError> {
    let number = |digits: &str| digits.parse::<u64>().ok();
    let time = if let Some(digits) = text.strip_suffix("ms") {
        number(digits).map(Duration::from_millis)
    } else {
        let digits = text.strip_suffix('s');
        digits.and_then(number).map(Duration::from_secs)
    };
    time.filter(|time| *time <= MAX_TIMEOUT).ok_or_else(|| {
        FormatError::new(
            "timeout",
            text,
            "seconds or milliseconds up to 60 s: 5s, 500ms",
        )
    })
}

/// Where a write has arrived, in the answer to a request that waited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// What was waited for, as the request said it.
    #[cfg_attr(feature = "utoipa", schema(value_type = String, example = "all"))]
    pub wait: WaitFor,
    /// Whether that was reached.
    pub reached: bool,
    /// Live replicas that follow a collection of the write.
    pub replicas: u64,
    /// How many of them have applied it.
    pub applied: u64,
    /// Replicas that follow a collection of the write and are not live: they are not counted, and may
    /// serve older values.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gone: u64,
    /// Live replicas that the publisher does not list, because the list is full: nothing is known of them,
    /// so `all` and a part in percent are not reached without them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted: u64,
    /// Milliseconds from the commit to this answer.
    pub waited_ms: u64,
    /// Those that have not, by name; at most [`MAX_NAMED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "utoipa", schema(max_items = 100))]
    pub missing: Vec<NotApplied>,
}

/// A live replica that has not applied a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct NotApplied {
    /// Its name.
    pub instance: String,
    /// Why not, as far as its last check-in says.
    pub reason: NotAppliedReason,
    /// The revision that it had reached in its last check-in; of a write of several collections, in
    /// the first one that is behind.
    pub revision: Revision,
    /// The reason in words, with a remedy where there is one.
    pub detail: String,
}

/// Why a replica has not applied a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NotAppliedReason {
    /// The value does not fit the type of its service, which keeps the one before.
    Refused,
    /// It has not loaded the collection yet.
    Loading,
    /// Its intake of events has a fault, so it learns of changes at its check-ins.
    NotReceiving,
    /// It has not reported the revision yet.
    Behind,
}

impl NotAppliedReason {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Loading => "loading",
            Self::NotReceiving => "not-receiving",
            Self::Behind => "behind",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_replicas_has_three_forms() {
        for (text, live, needed) in [
            ("all", 7, 7),
            ("all", 0, 0),
            ("3", 7, 3),
            ("3", 1, 3),
            ("90%", 7, 7),
            ("50%", 7, 4),
            ("100%", 7, 7),
            ("1%", 7, 1),
        ] {
            let wait: WaitFor = text.parse().expect(text);
            assert_eq!(wait.needed(live), needed, "{text} of {live}");
            assert_eq!(wait.to_string(), text);
        }
        for text in [
            "",
            "0",
            "-1",
            "0%",
            "101%",
            "ALL",
            "4294967296",
            "5.5%",
            "%",
        ] {
            assert!(text.parse::<WaitFor>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_to_wait_has_a_unit_and_a_bound() {
        assert_eq!(timeout("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(timeout("0s"), Ok(Duration::ZERO));
        assert_eq!(timeout("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(timeout("60s"), Ok(MAX_TIMEOUT));
        for text in [
            "",
            "5",
            "61s",
            "60001ms",
            "-1s",
            "1.5s",
            "5m",
            "s",
            "18446744073709551616s",
        ] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }
}
