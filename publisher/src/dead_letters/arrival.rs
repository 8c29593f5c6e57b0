//! One arrival of a dead letter, and what it adds to the letter. Pure.
//!
//! A letter arrives once for each replica that reports it and once for each sidecar that moves it, in
//! any order. The reason of a replica is kept whatever else arrives: it knows why. The original of a
//! sidecar is kept whatever is reported, because anybody can report.

use chrono::{DateTime, SecondsFormat, Utc};
use contract::dead_letter::{
    DeadLetter, DeadLetterId, DeadLetterReason, DeadLetterReport, EventSummary, MAX_REPLICAS,
    Original, OriginalFrom, kept, short,
};

use crate::{dead_letters::DeadLetterError, store::dead_letters::StoredLetter};

/// One arrival.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) id: DeadLetterId,
    reason: DeadLetterReason,
    cause: Option<String>,
    detail: String,
    replica: Option<String>,
    pub(super) event: EventSummary,
    /// Size of the original.
    bytes: u64,
    /// What is kept of it.
    original: Vec<u8>,
    pub(super) from: OriginalFrom,
    time: DateTime<Utc>,
}

impl Arrival {
    /// A sidecar moved the event. It says no reason, so the reason follows from the time: whether the
    /// event was still worth delivering when it arrived here.
    pub(super) fn moved(original: &[u8], time: DateTime<Utc>) -> Self {
        let event = EventSummary::of(original);
        let (reason, detail) = match event.expiration {
            Some(expiration) if expiration <= time => (
                DeadLetterReason::Expired,
                format!(
                    "its time to live ended at {}, before it arrived here; it expired before a \
                     replica took it, or was not taken and arrived late",
                    expiration.to_rfc3339_opts(SecondsFormat::Secs, true)
                ),
            ),
            _live => (
                DeadLetterReason::NotTaken,
                "a sidecar moved it to the dead letter topic, and no replica reported why: all \
                 attempts to deliver it failed, or the report did not arrive"
                    .to_owned(),
            ),
        };
        Self {
            id: DeadLetterId::of(&event, original),
            reason,
            cause: None,
            detail,
            replica: None,
            event,
            bytes: u64::try_from(original.len()).unwrap_or(u64::MAX),
            original: kept(original).to_vec(),
            from: OriginalFrom::Moved,
            time,
        }
    }

    /// A replica dropped the event.
    ///
    /// # Errors
    /// When the original is neither a text nor base64, or the name is not that of the event.
    pub(super) fn reported(
        report: DeadLetterReport,
        time: DateTime<Utc>,
    ) -> Result<Self, DeadLetterError> {
        let original = report.original.bytes();
        let original = original.map_err(|error| DeadLetterError::InvalidReport {
            pointer: "/original/base64",
            reason: error.to_string(),
        })?;
        let bytes = u64::try_from(original.len()).unwrap_or(u64::MAX);
        // What the original says of itself is believed, not what is said of it. A part of an event
        // cannot be read.
        let event = if report.bytes <= bytes {
            EventSummary::of(&original).on_topic(report.event.topic.as_deref())
        } else {
            report.event.bounded()
        };
        let is_named = event.source.is_some() && event.event_id.is_some();
        let is_whole = report.bytes <= bytes;
        if (is_named || is_whole) && report.id != DeadLetterId::of(&event, &original) {
            return Err(DeadLetterError::InvalidReport {
                pointer: "/id",
                reason: "The name of the dead letter is not that of its event".to_owned(),
            });
        }
        Ok(Self {
            id: report.id,
            reason: DeadLetterReason::Dropped,
            cause: Some(short(&report.cause)),
            detail: short(&report.detail),
            replica: Some(short(&report.instance)),
            event,
            // A size is a number of 63 bits wherever it is read.
            bytes: report.bytes.clamp(bytes, i64::MAX.unsigned_abs()),
            original: kept(&original).to_vec(),
            from: OriginalFrom::Reported,
            time,
        })
    }

    /// Whether these bytes are less than the event.
    pub(super) fn is_part(&self, original: &[u8]) -> bool {
        u64::try_from(original.len()).is_ok_and(|given| given < self.bytes)
    }

    fn is_truncated(&self) -> bool {
        self.is_part(&self.original)
    }
}

/// The letter after an arrival.
pub(super) fn merged(stored: Option<StoredLetter>, arrival: &Arrival) -> StoredLetter {
    let mut stored = stored.unwrap_or_else(|| StoredLetter {
        letter: DeadLetter {
            id: arrival.id,
            reason: arrival.reason,
            cause: arrival.cause.clone(),
            detail: Some(arrival.detail.clone()),
            first: arrival.time,
            last: arrival.time,
            count: 0,
            replicas: Vec::new(),
            event: arrival.event.clone(),
            replayed: None,
            replays: 0,
            bytes: arrival.bytes,
            truncated: arrival.is_truncated(),
            original_from: arrival.from,
            original: Original::default(),
        },
        original: arrival.original.clone(),
    });
    let letter = &mut stored.letter;
    letter.count = letter.count.saturating_add(1);
    letter.last = letter.last.max(arrival.time);
    if arrival.reason == DeadLetterReason::Dropped && letter.reason != DeadLetterReason::Dropped {
        letter.reason = arrival.reason;
        letter.cause.clone_from(&arrival.cause);
        letter.detail = Some(arrival.detail.clone());
    }
    if let Some(replica) = &arrival.replica
        && letter.replicas.len() < MAX_REPLICAS
        && !letter.replicas.contains(replica)
    {
        letter.replicas.push(replica.clone());
    }
    // The stronger source, and of one source the first whole original.
    let is_better = match (arrival.from, letter.original_from) {
        (OriginalFrom::Moved, OriginalFrom::Reported) => true,
        (OriginalFrom::Reported, OriginalFrom::Moved) => false,
        _same => letter.truncated && !arrival.is_truncated(),
    };
    if is_better {
        letter.event = arrival.event.clone();
        letter.original_from = arrival.from;
        letter.truncated = arrival.is_truncated();
        letter.bytes = arrival.bytes;
        stored.original.clone_from(&arrival.original);
    }
    stored
}

#[cfg(test)]
mod tests {
    use contract::dead_letter::MAX_ORIGINAL;
    use proptest::prelude::*;

    use super::*;

    const EVENT: &str = r#"{"specversion":"1.0","source":"s","id":"1","topic":"A","expiration":"2026-01-01T00:01:00Z",
        "data":{"collection":"A","op":"Create","id":"a"}}"#;

    fn at(second: i64) -> DateTime<Utc> {
        let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("a time");
        start + chrono::TimeDelta::seconds(second)
    }

    fn reported(instance: &str, second: i64) -> Arrival {
        let event = EventSummary::of(EVENT.as_bytes());
        let report = DeadLetterReport {
            id: DeadLetterId::of(&event, EVENT.as_bytes()),
            instance: instance.to_owned(),
            cause: "wrong-type".to_owned(),
            detail: "the id is a number".to_owned(),
            event,
            bytes: EVENT.len() as u64,
            original: Original::of(EVENT.as_bytes()),
        };
        Arrival::reported(report, at(second)).expect("valid")
    }

    fn moved(second: i64) -> Arrival {
        Arrival::moved(EVENT.as_bytes(), at(second))
    }

    #[test]
    fn an_event_that_arrives_after_its_time_to_live_is_expired() {
        for (second, reason) in [
            (59, DeadLetterReason::NotTaken),
            (60, DeadLetterReason::Expired),
            (3_600, DeadLetterReason::Expired),
        ] {
            assert_eq!(moved(second).reason, reason, "{second}");
        }
        let no_event = Arrival::moved(b"<config/>", at(0));
        assert_eq!(no_event.reason, DeadLetterReason::NotTaken);
    }

    /// Source and id of an event are known to everybody who gets it.
    #[test]
    fn a_forged_report_does_not_take_the_place_of_what_a_sidecar_moved() {
        let forged = EVENT.replace("\"a\"", "\"forged\"");
        let event = EventSummary::of(forged.as_bytes());
        let report = DeadLetterReport {
            id: DeadLetterId::of(&event, forged.as_bytes()),
            instance: "x".to_owned(),
            cause: "x".to_owned(),
            detail: "x".to_owned(),
            event: EventSummary::default(),
            bytes: forged.len() as u64,
            original: Original::of(forged.as_bytes()),
        };
        let forged = || Arrival::reported(report.clone(), at(0)).expect("valid");
        let first = merged(None, &forged());
        assert_eq!(first.letter.original_from, OriginalFrom::Reported);
        let id = first.letter.event.document.as_ref().map(|id| id.as_str());
        assert_eq!(id, Some("forged"), "what the original says, not the report");
        let moved_first = merged(Some(merged(None, &moved(0))), &forged());
        for stored in [merged(Some(first), &moved(0)), moved_first] {
            assert_eq!(stored.original, EVENT.as_bytes());
            assert_eq!(stored.letter.event, EventSummary::of(EVENT.as_bytes()));
            assert_eq!(stored.letter.original_from, OriginalFrom::Moved);
        }
        let of_another = DeadLetterReport {
            id: DeadLetterId(7),
            ..report
        };
        let refused = Arrival::reported(of_another, at(0));
        assert!(matches!(
            refused,
            Err(DeadLetterError::InvalidReport { pointer: "/id", .. })
        ));
    }

    #[test]
    fn what_a_report_claims_is_bounded() {
        let mut report = DeadLetterReport {
            id: DeadLetterId(7),
            instance: "x".repeat(10_000),
            cause: "x".repeat(10_000),
            detail: "x".repeat(10_000),
            event: EventSummary {
                source: Some("x".repeat(10_000)),
                ..EventSummary::default()
            },
            bytes: u64::MAX,
            original: Original {
                text: Some("x".repeat(10 * MAX_ORIGINAL)),
                base64: None,
            },
        };
        let letter = merged(
            None,
            &Arrival::reported(report.clone(), at(0)).expect("valid"),
        );
        let json = serde_json::to_string(&letter.letter).expect("json");
        assert!(json.len() < 3_000, "{}", json.len());
        assert_eq!(letter.original.len(), MAX_ORIGINAL);
        assert!(letter.letter.truncated);
        report.original = Original {
            text: None,
            base64: Some("?".to_owned()),
        };
        assert!(Arrival::reported(report, at(0)).is_err());
    }

    proptest! {
        /// Reports and moves arrive in any order, and each may be repeated.
        #[test]
        fn all_arrivals_of_an_event_are_one_letter_with_the_reason_of_the_replicas(
            order in prop::collection::vec((any::<bool>(), 0..200_i64, 0..20_u8), 1..30)
        ) {
            let mut stored = None;
            for (is_report, second, replica) in &order {
                let arrival = if *is_report {
                    reported(&format!("replica-{replica}"), *second)
                } else {
                    moved(*second)
                };
                stored = Some(merged(stored, &arrival));
            }
            let letter = stored.expect("a letter").letter;
            let any_report = order.iter().any(|(is_report, ..)| *is_report);
            prop_assert_eq!(letter.reason == DeadLetterReason::Dropped, any_report);
            prop_assert_eq!(letter.cause.is_some(), any_report);
            prop_assert_eq!(letter.count, order.len() as u64);
            prop_assert!(letter.replicas.len() <= MAX_REPLICAS);
            prop_assert_eq!(Some(letter.last), order.iter().map(|(_, second, _)| at(*second)).max());
            prop_assert!(!letter.truncated);
        }
    }
}
