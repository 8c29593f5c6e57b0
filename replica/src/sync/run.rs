//! The phases of the loop, and what moves it from one to the next.
//!
//! The loop decides when to check in and when to catch up; how that is done is in `check_in`,
//! `catch_up` and `load`. It never ends by itself.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use contract::text::Escaped;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use super::{
    CatchUp, CheckIns, SyncError, SyncSignals,
    schedule::{Schedule, wait_after},
};
use crate::{
    Config,
    cache::{Cache, GRACE},
    failure_log::{FailureLevel, FailureLog},
    intake::Stats,
};

/// How long what was restored from disk may catch up before readers see it as it is.
const RESTORE_BUDGET: Duration = Duration::from_secs(2);

/// What the loop does. It is in one phase at a time:
///
/// ```text
/// Restoring ─▶ Waiting ◀──────────▶ GracePeriod
///                 │ ▲  ╲           ╱    │
///                 ▼ │   ▼         ▼     ▼
///             CheckingIn ──────▶ CatchingUp
///                 │                     │
///                 └──▶ BackingOff ◀─────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// At the start: what was restored from disk catches up, for at most 2 s, before readers see
    /// it. Without an image this takes no time. Next: an idle phase.
    Restoring,
    /// Nothing that could be had is missing. Next: `CheckingIn` when a check-in is due, by the
    /// interval, by a signal or by a watermark that moved; `GracePeriod` when a gap was found.
    Waiting,
    /// A revision is missing that an event may still bring. Next: `CatchingUp` when the grace is
    /// over; `CheckingIn` when a check-in is due; `Waiting` when the gap is closed.
    GracePeriod,
    /// The last request failed. As `Waiting` and `GracePeriod`, but nothing is requested before the
    /// wait is over, whatever the signals. Next: `CheckingIn`.
    BackingOff,
    /// A check-in is under way, and the load that its answer may lead to. Next: `CatchingUp` when
    /// something is missing whose grace is over or that needs none; `BackingOff` after a failure;
    /// else an idle phase.
    CheckingIn {
        /// A catch-up is due as well.
        then_catch_up: bool,
    },
    /// Missing changes are read from the feed, or loaded. Next: `BackingOff` after a failure; else
    /// an idle phase.
    CatchingUp,
}

/// Keeps a replica in step with its publishers.
#[derive(Debug)]
pub(crate) struct SyncLoop {
    /// Instance and check-in interval.
    pub(crate) config: Arc<Config>,
    /// What is held, and what is missing.
    pub(crate) cache: Arc<Cache>,
    /// Where the last error is shown.
    pub(crate) stats: Arc<Stats>,
    /// What wakes the loop.
    pub(crate) signals: Arc<SyncSignals>,
    /// Checks in, and loads when the answer says so.
    pub(crate) check_ins: Arc<CheckIns>,
    /// Brings missing changes.
    pub(crate) catch_up: CatchUp,
    /// What was logged of the current failure.
    pub(crate) failures: Mutex<FailureLog>,
}

impl SyncLoop {
    /// Runs the loop. It never ends.
    pub(crate) async fn run(&self) {
        let mut feed_changed = self.cache.feed_changed();
        let mut schedule = Schedule::new(Instant::now());
        let mut phase = Phase::Restoring;
        loop {
            tracing::trace!(?phase, "the synchronisation enters a phase");
            phase = match phase {
                Phase::Restoring => {
                    self.restore().await;
                    // A check-in is due at once, whatever the restore brought.
                    schedule = Schedule::new(Instant::now());
                    self.signals.skip_grace();
                    Phase::Waiting
                }
                Phase::Waiting | Phase::GracePeriod | Phase::BackingOff => {
                    self.wait(&mut schedule, &mut feed_changed).await
                }
                Phase::CheckingIn { then_catch_up } => {
                    self.check_in(&mut schedule, &mut feed_changed, then_catch_up)
                        .await
                }
                Phase::CatchingUp => self.catch_up(&mut schedule).await,
            };
        }
    }

    /// Tries for a moment to bring up to date what was restored from disk, then lets readers see
    /// it.
    async fn restore(&self) {
        if self.cache.view().open {
            return;
        }
        // A timeout is no failure: the loop goes on with what was not reached.
        if let Ok(Err(error)) = timeout(RESTORE_BUDGET, self.catch_up_once()).await {
            tracing::debug!(
                "the configuration that was restored from disk could not catch up yet: {error}"
            );
        }
        // In any case: old values are better than none.
        self.cache.open();
        let instance = &self.config.instance;
        let state = self.cache.view().state(Instant::now()).as_str();
        tracing::info!(
            state,
            "{instance} serves the last known good configuration that was restored from disk, its state is {state}"
        );
    }

    /// One check-in, and a catch-up when it showed that something is missing.
    async fn catch_up_once(&self) -> Result<(), SyncError> {
        self.check_ins.check_in().await?;
        if self.cache.view().gaps.is_empty() {
            Ok(())
        } else {
            self.catch_up.catch_up().await
        }
    }

    /// Waits in an idle phase until the next phase begins.
    ///
    /// It returns at every signal, also when the phase stays the same; the caller waits again then.
    async fn wait(
        &self,
        schedule: &mut Schedule,
        feed_changed: &mut watch::Receiver<u64>,
    ) -> Phase {
        // Before the view is read: an event that makes a gap after that signals it.
        self.signals.look_at_gaps();
        let catch_up_at = self
            .cache
            .view()
            .oldest_gap_except(&schedule.unavailable)
            .map(|since| (since + GRACE).max(schedule.not_before));
        // From now on events need not signal gaps: the loop looks at all of them then.
        if catch_up_at.is_some() {
            self.signals.wait_for_grace();
        }
        let catch_up_at = catch_up_at.into_iter().chain(schedule.changed_at).min();
        let wake_at = catch_up_at.map_or(schedule.check_in_at, |at| at.min(schedule.check_in_at));
        // Once an early check-in is scheduled, further changes need not wake the loop.
        let may_report = schedule.may_report();
        tokio::select! {
            // In this order: one check-in answers all signals until now.
            biased;
            // The gap is read from the view again, so the signal itself needs nothing.
            () = self.signals.gap() => {}
            () = self.signals.check_in() => {
                schedule.check_in_for_hint();
                self.signals.skip_grace();
            }
            () = self.signals.other_epoch() => {
                schedule.check_in_for_other_epoch();
            }
            () = self.signals.unconfirmed() => {
                schedule.check_in_for_unconfirmed();
            }
            () = self.signals.unproven() => {
                schedule.check_in_for_unproven(self.config.check_in);
            }
            () = self.signals.confirmation() => schedule.confirm(Instant::now()),
            // Once a catch-up is scheduled, further events need not wake the loop.
            () = self.signals.until_changed(), if schedule.changed_at.is_none() => {
                // A catch-up may have answered the event meanwhile.
                if self.signals.any_changed() {
                    schedule.catch_up_for_changed(Instant::now());
                }
            }
            _ = feed_changed.changed(), if may_report => schedule.report_by(Instant::now()),
            () = sleep_until(wake_at.into()) => {
                let now = Instant::now();
                let catch_up_due = catch_up_at.is_some_and(|at| now >= at);
                if now >= schedule.check_in_at {
                    // Both when both are due: check-ins, however many, never hold up a catch-up.
                    return Phase::CheckingIn { then_catch_up: catch_up_due };
                }
                if catch_up_due {
                    return Phase::CatchingUp;
                }
            }
        }
        self.idle_phase(schedule)
    }

    /// The phase in which nothing is under way.
    fn idle_phase(&self, schedule: &Schedule) -> Phase {
        if Instant::now() < schedule.not_before {
            Phase::BackingOff
        } else if self
            .cache
            .view_guard()
            .oldest_gap_except(&schedule.unavailable)
            .is_some()
        {
            Phase::GracePeriod
        } else {
            Phase::Waiting
        }
    }

    /// The phase `CheckingIn`: one check-in. Returns the next phase.
    async fn check_in(
        &self,
        schedule: &mut Schedule,
        feed_changed: &mut watch::Receiver<u64>,
        then_catch_up: bool,
    ) -> Phase {
        schedule.check_in_begins(Instant::now());
        let result = self.check_ins.check_in().await;
        // What is missing after a start or a reconnect is not on its way.
        let needs_no_grace =
            self.signals.take_skip_grace() && !self.cache.view_guard().gaps.is_empty();
        schedule.check_in_done(Instant::now(), self.config.check_in);
        match result {
            Ok(checked_in) => {
                // Each answer says it again: a publisher may be restarted with another setting.
                schedule.report_after = checked_in.report_after;
                schedule.confirm_after = checked_in.confirm_after;
                // A watermark that moved after the report was made, by events or by the load that
                // followed, is reported early.
                // An error that was reported and is over is, too: the list of replicas shows it.
                let moved = *feed_changed.borrow_and_update() != checked_in.reported_version;
                if moved || checked_in.reported_error {
                    schedule.report_by(Instant::now());
                }
                if then_catch_up || needs_no_grace {
                    return Phase::CatchingUp;
                }
                self.note(Ok(()), schedule)
            }
            Err(error) => self.note(Err(error), schedule),
        }
    }

    /// The phase `CatchingUp`: one catch-up. Returns the next phase.
    async fn catch_up(&self, schedule: &mut Schedule) -> Phase {
        let before = self.cache.view_guard().root().gaps();
        let version = *self.cache.feed_changed().borrow();
        let result = self.catch_up.catch_up().await;
        let brought = *self.cache.feed_changed().borrow() != version;
        schedule.catch_up_done(Instant::now(), brought);
        let after = self.cache.view();
        // The publisher said that there is no more: asking again would bring the same.
        if result.is_ok() && before == after.root().gaps() {
            schedule.unavailable.clone_from(&after.gaps);
        }
        self.note(result, schedule)
    }

    /// Schedules the next attempt after a failure; logs a failure when it is new, and its end.
    fn note(&self, result: Result<(), SyncError>, schedule: &mut Schedule) -> Phase {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(error) = result else {
            if failures.succeeded() {
                tracing::info!("the replica is in step with its publisher again");
            }
            self.stats.set_last_error(None);
            return self.idle_phase(schedule);
        };
        // The next request is a check-in, whatever failed: its answer says what is needed.
        schedule.back_off(Instant::now() + wait_after(&error));
        let needs_a_person = error.needs_a_person();
        let error = error.to_string();
        // A publisher is another program, whose words may hold anything.
        let shown = Escaped(&error);
        let level = if needs_a_person {
            failures.failed_until_changed(&error)
        } else {
            failures.failed(&error, Instant::now())
        };
        match level {
            FailureLevel::Info => {
                tracing::info!("the replica waits for its publisher and tries again: {shown}");
            }
            FailureLevel::Error => {
                tracing::error!(
                    "the replica is out of step with its publisher until somebody acts: {shown}"
                );
            }
            FailureLevel::Warn => {
                tracing::warn!(
                    "the replica is out of step with its publisher and tries again: {shown}"
                );
            }
            FailureLevel::Debug => {
                tracing::debug!("the replica is still out of step with its publisher: {shown}");
            }
        }
        self.stats.set_last_error(Some(error));
        Phase::BackingOff
    }
}
