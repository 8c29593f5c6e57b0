//! Reports of dropped events to the publisher, which keeps them as dead letters.
//!
//! A report is best effort: the queue, its rate and the time for each report are bounded, and nothing
//! waits for a report. An event that is dropped again and again is reported once in a while. A
//! replica whose publisher keeps no dead letters works as well. Nothing here decides what becomes
//! of an event.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use client::{RetryPolicy, retry::is_transient};
use contract::dead_letter::{DeadLetterId, DeadLetterReport, EventSummary, Original};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{Config, SourceError, failure_log::LogRate, source::PublisherSource};

/// Reports that wait for the publisher, at most: 4 MiB with their originals.
const QUEUE: usize = 64;
/// Reports in a minute, at most.
const RATE: u32 = 60;
/// How long an event is not reported again.
const PERIOD: Duration = Duration::from_secs(600);
/// Events that are remembered for that, at most.
const REMEMBERED: usize = 1_024;
/// Time limit of one report at all publishers.
const TIME: Duration = Duration::from_secs(5);
/// How often a report is sent while no publisher takes it.
const ATTEMPTS: u32 = 5;

/// Reports of dropped events.
#[derive(Debug)]
pub(crate) struct DropReports {
    /// Name of the replica.
    instance: String,
    /// Where reports are sent.
    source: Arc<PublisherSource>,
    /// `None` where there is no publisher to report to.
    queue: Option<mpsc::Sender<DeadLetterReport>>,
    /// Taken by the one task that sends.
    queued: Mutex<Option<mpsc::Receiver<DeadLetterReport>>>,
    /// What was reported lately.
    recent: Mutex<Recent>,
}

/// What was reported lately.
#[derive(Debug)]
struct Recent {
    /// When each event was reported.
    reported: HashMap<DeadLetterId, Instant>,
    /// When this minute began, and the reports in it.
    minute: Instant,
    in_minute: u32,
}

impl Recent {
    fn new(now: Instant) -> Self {
        Self {
            reported: HashMap::new(),
            minute: now,
            in_minute: 0,
        }
    }

    /// Whether one more report may be sent now.
    fn has_place(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.minute) >= Duration::from_secs(60) {
            self.minute = now;
            self.in_minute = 0;
        }
        self.in_minute < RATE
    }

    /// Whether an event was reported lately.
    fn has(&self, id: DeadLetterId, now: Instant) -> bool {
        (self.reported.get(&id)).is_some_and(|since| is_recent(*since, now))
    }

    /// An event is being reported.
    fn note(&mut self, id: DeadLetterId, now: Instant) {
        if self.reported.len() >= REMEMBERED {
            // The rate makes more than this in a period impossible.
            self.reported.retain(|_id, since| is_recent(*since, now));
        }
        self.reported.insert(id, now);
        self.in_minute += 1;
    }
}

fn is_recent(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < PERIOD
}

impl DropReports {
    pub(crate) fn new(config: &Config, source: Arc<PublisherSource>) -> Self {
        let (sender, queued) = mpsc::channel(QUEUE);
        Self {
            instance: config.instance.clone(),
            source,
            queue: (!config.publishers.is_empty()).then_some(sender),
            queued: Mutex::new(Some(queued)),
            recent: Mutex::new(Recent::new(Instant::now())),
        }
    }

    /// Queues the report of an event that was dropped: `original` is what arrived, `topic` where it
    /// came from if that is not in it. It never waits.
    pub(crate) fn report(&self, cause: &str, detail: &str, original: &[u8], topic: Option<&str>) {
        let Some(queue) = &self.queue else { return };
        let now = Instant::now();
        // Before the event is read once more.
        if !self.recent().has_place(now) {
            return left_out();
        }
        let event = EventSummary::of(original).on_topic(topic);
        let id = DeadLetterId::of(&event, original);
        // Held until it is known whether the report has a place.
        let mut recent = self.recent();
        if recent.has(id, now) {
            return;
        }
        let report = DeadLetterReport {
            id,
            instance: self.instance.clone(),
            cause: cause.to_owned(),
            detail: detail.to_owned(),
            event,
            bytes: u64::try_from(original.len()).unwrap_or(u64::MAX),
            original: Original::of(original),
        };
        match queue.try_send(report) {
            Ok(()) => recent.note(id, now),
            Err(_full) => left_out(),
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the queued reports and never ends.
    pub(crate) async fn run(&self) {
        let queued = self
            .queued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut queued) = queued else {
            return std::future::pending().await;
        };
        while let Some(report) = queued.recv().await {
            self.send(&report).await;
        }
        std::future::pending().await
    }

    async fn send(&self, report: &DeadLetterReport) {
        let mut waits = RetryPolicy::DROP_REPORT.waits();
        for attempt in 1..=ATTEMPTS {
            let sent = timeout(TIME, self.source.report_dead_letter(report)).await;
            let error = match sent.unwrap_or(Err(SourceError::TooLate(TIME))) {
                Ok(()) => return,
                Err(error) => error,
            };
            let wait = match &error {
                // A service without the route never takes it: an older publisher, or a subscriber.
                SourceError::Client(error) if !is_transient(error) => None,
                SourceError::Client(error) => Some(waits.after(error)),
                SourceError::Install(_) | SourceError::TooLate(_) => Some(waits.next_wait()),
            };
            if let Some(wait) = wait.filter(|_wait| attempt < ATTEMPTS) {
                sleep(wait).await;
                continue;
            }
            // The next time that it is dropped it is reported again.
            self.recent().reported.remove(&report.id);
            static LINES: LogRate = LogRate::every(Duration::from_secs(60));
            if let Some(left_out) = LINES.due() {
                let id = report.id;
                tracing::info!(
                    %id,
                    "the dropped event {id} was not reported to a publisher, its reason is in the \
                     status alone: {error}{left_out}"
                );
            }
            return;
        }
    }
}

fn left_out() {
    static LINES: LogRate = LogRate::every(Duration::from_secs(60));
    if let Some(left_out) = LINES.due() {
        tracing::warn!(
            "more events are dropped than are reported to the publisher: at most {RATE} a minute and \
             {QUEUE} that wait{left_out}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_reported_once_in_a_period_and_all_have_a_rate() {
        let start = Instant::now();
        let mut recent = Recent::new(start);
        let second = |seconds| start + Duration::from_secs(seconds);
        recent.note(DeadLetterId(7), start);
        assert!(recent.has(DeadLetterId(7), second(599)));
        assert!(!recent.has(DeadLetterId(7), second(600)));

        let mut recent = Recent::new(start);
        for id in 0..u128::from(RATE) {
            assert!(recent.has_place(start));
            recent.note(DeadLetterId(id), start);
        }
        assert!(!recent.has_place(second(59)));
        assert!(recent.has_place(second(60)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut recent = Recent::new(start);
        for minute in 0..1_000 {
            let now = start + Duration::from_secs(60 * minute);
            for id in 0..u128::from(RATE) {
                assert!(recent.has_place(now));
                recent.note(DeadLetterId(u128::from(minute) * 1_000 + id), now);
            }
            assert!(recent.reported.len() <= REMEMBERED);
        }
    }
}
