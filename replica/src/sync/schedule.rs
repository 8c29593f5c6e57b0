//! When the loop does what next: the time of the next check-in, and what no request is made for.
//!
//! It holds times and asks no clock: the caller passes the time. It makes no request.

use std::time::{Duration, Instant};

use client::RetryPolicy;

use super::SyncError;
use crate::{cache::Gaps, source::SourceError};

/// How much of the check-in interval passes between two check-ins. Replicas that started together
/// drift apart.
const CHECK_IN_SHARE: std::ops::Range<f64> = 0.75..1.0;
/// Check-ins that events of another history lead to are at least this far apart.
const OTHER_EPOCH_GAP: Duration = Duration::from_secs(5);
/// Check-ins that unconfirmed revisions lead to are at least this far apart, where the publisher asks
/// for no other distance.
const UNCONFIRMED_GAP: Duration = Duration::from_secs(1);
/// Check-ins that hints lead to are at least this far apart.
const HINT_GAP: Duration = Duration::from_millis(500);
/// Catch-ups that id-only events lead to are at least this far apart. Anyone may repeat such an event.
const CHANGED_GAP: Duration = Duration::from_millis(50);
/// After so many of them in a row that brought nothing they are [`HINT_GAP`] apart, until one brings
/// something.
const FRUITLESS: u32 = 20;
/// For this time after an event that asks for a check-in, watermarks that move are reported at once: the
/// change may have to wait for another one, or a load.
const CONFIRM_FOR: Duration = Duration::from_secs(5);
/// How long an early check-in waits for further changes after the first one.
const GATHER: Duration = Duration::from_millis(300);

/// When the loop does what next.
#[derive(Debug)]
pub(super) struct Schedule {
    /// When the next check-in is due.
    pub(super) check_in_at: Instant,
    /// Nothing is requested before: the last request failed.
    pub(super) not_before: Instant,
    /// When the last check-in began.
    last_check_in: Option<Instant>,
    /// The shortest time between two check-ins of a replica whose watermarks move; `None` when the
    /// publisher wants no early check-ins.
    pub(super) report_after: Option<Duration>,
    /// Whether an event that no publisher has signed came since the last check-in.
    unproven: bool,
    /// When the last check-in began that answered such events.
    unproven_answered: Option<Instant>,
    /// The same while requests wait for check-ins; `None` when the publisher does not ask for them.
    pub(super) confirm_after: Option<Duration>,
    /// Until when requests may wait for a check-in.
    confirm_until: Option<Instant>,
    /// Whether an early check-in is part of `check_in_at`.
    reporting: bool,
    /// When a catch-up is due because of id-only events, if one is.
    pub(super) changed_at: Option<Instant>,
    /// Catch-ups in a row that id-only events led to, and that brought nothing.
    fruitless: u32,
    /// When the last catch-up ended.
    last_catch_up: Option<Instant>,
    /// Gaps that a catch-up did not narrow: the publisher did not have what is missing, so only a
    /// check-in can help.
    pub(super) unavailable: Gaps,
}

impl Schedule {
    /// A check-in is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            check_in_at: now,
            not_before: now,
            last_check_in: None,
            report_after: None,
            confirm_after: None,
            confirm_until: None,
            unproven: false,
            unproven_answered: None,
            reporting: false,
            changed_at: None,
            fruitless: 0,
            last_catch_up: None,
            unavailable: Gaps::default(),
        }
    }

    /// A check-in begins. What the publishers did not have before may be there after it.
    pub(super) fn check_in_begins(&mut self, now: Instant) {
        self.last_check_in = Some(now);
        if std::mem::take(&mut self.unproven) {
            self.unproven_answered = Some(now);
        }
        self.reporting = false;
        self.unavailable.clear();
    }

    /// A check-in ended, well or not: the next one is due within the interval, earlier by a random
    /// part.
    pub(super) fn check_in_done(&mut self, now: Instant, interval: Duration) {
        let share = rand::random_range(CHECK_IN_SHARE);
        self.check_in_at = now + interval.mul_f64(share);
    }

    /// An event counts in another history, which a check-in finds out about. A publisher that was
    /// left behind may send many such events, so the distance to the last check-in is kept.
    pub(super) fn check_in_for_other_epoch(&mut self) {
        self.check_in_after(OTHER_EPOCH_GAP);
    }

    /// Something may have changed, by a hint: an event without a revision, or a source of events that
    /// connected again. Anyone may repeat it, so all hints within the distance of early check-ins lead
    /// to one check-in together.
    pub(super) fn check_in_for_hint(&mut self) {
        let distance = self
            .report_after
            .unwrap_or(HINT_GAP)
            .clamp(HINT_GAP, OTHER_EPOCH_GAP);
        self.check_in_after(distance);
    }

    /// An event named revisions that no publisher has confirmed. Anyone may have sent it, so all that
    /// come within the distance of early check-ins lead to one check-in together.
    pub(super) fn check_in_for_unconfirmed(&mut self) {
        // A publisher that asks for no distance must not cost one check-in per event.
        let distance = self.report_after.unwrap_or(UNCONFIRMED_GAP);
        self.check_in_after(distance.max(HINT_GAP));
    }

    /// An event came that no publisher has signed. Anyone can send it, in any number: the first one
    /// leads to a check-in, and all further ones until an interval later to none.
    pub(super) fn check_in_for_unproven(&mut self, interval: Duration) {
        self.unproven = true;
        match self.unproven_answered {
            Some(answered) => self.check_in_by(answered + interval),
            None => self.check_in_after(UNCONFIRMED_GAP),
        }
    }

    /// The next check-in keeps this distance to the last one; at once where there was none.
    fn check_in_after(&mut self, distance: Duration) {
        let earliest = self.last_check_in.map(|last| last + distance);
        self.check_in_by(earliest.unwrap_or(self.not_before));
    }

    /// Whether a watermark that moves leads to an early check-in that is not scheduled yet.
    pub(super) fn may_report(&self) -> bool {
        self.report_after.is_some() && !self.reporting
    }

    /// The next check-in is at this time or earlier, but not before the wait after a failure ends.
    pub(super) fn check_in_by(&mut self, at: Instant) {
        self.check_in_at = self.check_in_at.min(at.max(self.not_before));
    }

    /// A watermark moved: the next check-in gathers further changes for a moment, and keeps the
    /// distance to the last one that the publisher asked for.
    pub(super) fn report_by(&mut self, now: Instant) {
        let Some(report_after) = self.report_after else {
            return;
        };
        let (gather, distance) = match self.confirm_after {
            Some(confirm_after) if self.confirm_until.is_some_and(|until| now < until) => {
                (Duration::ZERO, confirm_after)
            }
            _not_awaited => (GATHER, report_after),
        };
        let earliest = self.last_check_in.map_or(now, |last| last + distance);
        self.check_in_by((now + gather).max(earliest));
        self.reporting = true;
    }

    /// An event was applied that asks for a check-in, because a request waits for it. Where the
    /// publisher gave no distance for that, it is reported as any other change.
    pub(super) fn confirm(&mut self, now: Instant) {
        self.confirm_until = Some(now + CONFIRM_FOR);
        self.report_by(now);
    }

    /// An id-only event came: the feed is read at once, or a moment after the last catch-up.
    pub(super) fn catch_up_for_changed(&mut self, now: Instant) {
        let gap = gap_of_changed(self.fruitless);
        let earliest = self.last_catch_up.map_or(now, |last| last + gap);
        self.changed_at = Some(now.max(earliest).max(self.not_before));
    }

    /// A catch-up ended, well or not. `brought` says whether the replica holds something new.
    pub(super) fn catch_up_done(&mut self, now: Instant, brought: bool) {
        self.last_catch_up = Some(now);
        if brought {
            self.fruitless = 0;
        } else if self.changed_at.is_some() {
            self.fruitless = self.fruitless.saturating_add(1);
        }
        self.changed_at = None;
    }

    /// The last request failed: the next one is a check-in at this time.
    pub(super) fn back_off(&mut self, until: Instant) {
        self.not_before = until;
        self.check_in_at = until;
        // The heads in its answer tell of all changes until then.
        self.changed_at = None;
    }
}

/// The time between two reads that events without a value lead to, after this many of them in a row
/// brought nothing. Anyone may send such events.
pub(crate) fn gap_of_changed(fruitless: u32) -> Duration {
    match fruitless {
        0..FRUITLESS => CHANGED_GAP,
        FRUITLESS.. => HINT_GAP,
    }
}

/// How long the loop waits after a failure: at least as long as the publisher asked for.
pub(super) fn wait_after(error: &SyncError) -> Duration {
    let mut waits = RetryPolicy::REPLICA_SYNC.waits();
    match error {
        SyncError::Source(SourceError::Client(error)) => waits.after(error),
        SyncError::Source(SourceError::Install(_) | SourceError::TooLate(_))
        | SyncError::Install(_) => waits.next_wait(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_check_in_gathers_and_keeps_the_distance_of_the_publisher() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut schedule = Schedule {
            check_in_at: at(10_000),
            last_check_in: Some(start),
            ..Schedule::new(start)
        };
        schedule.report_by(at(100));
        assert_eq!(schedule.check_in_at, at(10_000), "the publisher wants none");
        schedule.report_after = Some(Duration::from_millis(1_000));
        schedule.report_by(at(100));
        assert_eq!(schedule.check_in_at, at(1_000), "not sooner than asked for");
        schedule.check_in_at = at(10_000);
        schedule.report_by(at(2_000));
        assert_eq!(
            schedule.check_in_at,
            at(2_300),
            "further changes are gathered"
        );
        schedule.back_off(at(5_000));
        schedule.report_by(at(3_000));
        assert_eq!(
            schedule.check_in_at,
            at(5_000),
            "not before the wait is over"
        );
    }

    #[test]
    fn a_change_that_a_request_waits_for_is_reported_at_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut schedule = Schedule {
            check_in_at: at(60_000),
            last_check_in: Some(start),
            report_after: Some(Duration::from_millis(500)),
            ..Schedule::new(start)
        };
        schedule.confirm(at(10));
        assert_eq!(schedule.check_in_at, at(500), "an older publisher");
        schedule.confirm_after = Some(Duration::from_millis(5));
        schedule.confirm(at(10));
        assert_eq!(schedule.check_in_at, at(10));
        schedule.check_in_begins(at(10));
        schedule.check_in_done(at(11), Duration::from_secs(60));
        schedule.report_by(at(12));
        assert_eq!(schedule.check_in_at, at(15), "what comes after it as well");
        schedule.check_in_begins(at(15));
        schedule.check_in_done(at(16), Duration::from_secs(60));
        schedule.report_by(at(5_010));
        assert_eq!(
            schedule.check_in_at,
            at(5_310),
            "and then as any other change"
        );
    }

    #[test]
    fn id_only_events_lead_to_catch_ups_that_keep_a_distance() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut schedule = Schedule::new(start);
        schedule.catch_up_for_changed(at(10));
        assert_eq!(schedule.changed_at, Some(at(10)), "the first one at once");
        schedule.catch_up_done(at(15), true);
        assert_eq!(schedule.changed_at, None);
        schedule.catch_up_for_changed(at(16));
        assert_eq!(schedule.changed_at, Some(at(65)));
        schedule.back_off(at(500));
        assert_eq!(schedule.changed_at, None, "a check-in comes first");
        schedule.catch_up_for_changed(at(20));
        assert_eq!(schedule.changed_at, Some(at(500)));
    }

    #[test]
    fn a_flood_of_id_only_events_that_say_nothing_new_leads_to_two_catch_ups_a_second() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let catch_ups = |schedule: &mut Schedule, seconds: std::ops::Range<u64>, brought| {
            let mut count = 0;
            for ms in seconds.start * 1_000..seconds.end * 1_000 {
                let now = start + Duration::from_millis(ms);
                if schedule.changed_at.is_none() {
                    schedule.catch_up_for_changed(now);
                }
                if schedule.changed_at.is_some_and(|at| now >= at) {
                    schedule.catch_up_done(now, brought);
                    count += 1;
                }
            }
            count
        };
        assert_eq!(catch_ups(&mut schedule, 0..2, true), 40);
        assert!(
            catch_ups(&mut schedule, 2..12, false) <= 40,
            "20 quick ones, then 2 a second"
        );
        assert!(
            catch_ups(&mut schedule, 12..14, true) >= 30,
            "as before with the first that helps"
        );
    }

    #[test]
    fn a_flood_of_unproven_events_leads_to_one_more_check_in() {
        let start = Instant::now();
        let interval = Duration::from_secs(10);
        let check_ins = |flood: bool| {
            let mut schedule = Schedule::new(start);
            let mut times = Vec::new();
            for ms in 0..60_000 {
                let now = start + Duration::from_millis(ms);
                if flood && ms >= 4_000 {
                    schedule.check_in_for_unproven(interval);
                }
                if now >= schedule.check_in_at {
                    schedule.check_in_begins(now);
                    schedule.check_in_done(now, interval);
                    times.push(ms);
                }
            }
            times
        };
        let flooded = check_ins(true);
        assert_eq!(flooded[1], 4_000, "the first one at once");
        // Between two check-ins of a replica without a flood are 7.5 to 10 s.
        assert!((7..=10).contains(&flooded.len()), "{flooded:?}");
        assert!(
            flooded
                .windows(2)
                .skip(1)
                .all(|pair| pair[1] - pair[0] >= 7_500),
            "{flooded:?}"
        );
        // One that comes later is answered at once again.
        let mut schedule = Schedule::new(start);
        schedule.check_in_begins(start);
        schedule.check_in_for_unproven(interval);
        assert_eq!(schedule.check_in_at, start);
    }

    #[test]
    fn a_flood_of_events_leads_to_two_check_ins_a_second_at_most() {
        for cause in [
            Schedule::check_in_for_hint,
            Schedule::check_in_for_unconfirmed,
        ] {
            let start = Instant::now();
            let mut schedule = Schedule {
                report_after: Some(Duration::ZERO),
                ..Schedule::new(start)
            };
            let mut check_ins = 0;
            for ms in 0..3_000 {
                let now = start + Duration::from_millis(ms);
                cause(&mut schedule);
                if now >= schedule.check_in_at {
                    schedule.check_in_begins(now);
                    schedule.check_in_done(now, Duration::from_secs(10));
                    check_ins += 1;
                }
            }
            assert_eq!(check_ins, 6);
        }
    }
}
