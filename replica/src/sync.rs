//! The loop that checks in and heals. Events make a replica fast; this makes it right.
//!
//! It is the only one that asks for deltas and snapshots, so there is one at a time. It never ends
//! by itself, and a failure never costs anything that is held.

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    time::{Duration, Instant},
};

use state::InstallError;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use crate::{
    OriginError, Replica,
    view::{GRACE, Gaps},
};

/// How much of the check-in interval passes between two readings. Replicas that started together
/// drift apart.
const CHECK_IN_SHARE: std::ops::Range<f64> = 0.75..1.0;
/// Wait after a failure, in seconds.
const BACKOFF: std::ops::Range<f64> = 0.5..1.0;
/// Longest wait that a publisher can ask for.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// How much longer than it was asked to a replica waits, at most: those that were refused together
/// come back apart.
const LONGER: f64 = 0.5;
/// Readings that events of another history lead to are at least this far apart.
const OTHER_EPOCH_GAP: Duration = Duration::from_secs(5);
/// How long handlers may go on after the stop.
const HANDLERS_GRACE: Duration = Duration::from_secs(5);

/// Why a check-in or a healing did not bring the replica into step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("what the publisher offers is not taken: {0}")]
    Install(#[from] InstallError),
}

impl Replica {
    /// Loads, then follows the publishers until `stop` resolves, and gives what that gave. `stop`
    /// may be the service itself: it is polled all along. Run it once; dropping it is safe at
    /// any moment, and costs no more than the last half minute of what is kept on disk, and
    /// whatever a handler was at. When `stop` resolves, handlers may finish what they are at,
    /// for a few seconds.
    pub async fn run<T>(&self, stop: impl Future<Output = T>) -> T {
        let stopping = watch::Sender::new(false);
        let mut handling = pin!(self.handle(&stopping));
        let following = async {
            // Neither of them ever ends.
            self.recall().await;
            // Boxed, because its type is too deep for whoever embeds this.
            #[cfg(feature = "redis")]
            let listening = Box::pin(self.listen());
            #[cfg(not(feature = "redis"))]
            let listening = std::future::pending::<()>();
            tokio::join!(
                self.follow(),
                self.keep(),
                self.project(),
                self.tell_state(),
                Box::pin(self.follow_feed()),
                listening
            );
            std::future::pending::<Infallible>().await
        };
        let handlers = async {
            handling.as_mut().await;
            std::future::pending::<Infallible>().await
        };
        let ended = tokio::select! {
            ended = stop => ended,
            never = following => match never {},
            never = handlers => match never {},
        };
        stopping.send_replace(true);
        if timeout(HANDLERS_GRACE, handling).await.is_err() {
            tracing::warn!("handlers did not finish what they were at");
        }
        self.keep_last().await;
        ended
    }

    async fn follow(&self) {
        self.catch_up().await;
        let mut due = Instant::now();
        let mut not_before = due;
        let mut last_reading: Option<Instant> = None;
        self.journal().begun = true;
        // Gaps that a healing did not narrow: what is lacking was not there to be had, so only a
        // check-in can help.
        let mut hopeless = Gaps::default();
        loop {
            // Before the view is looked at: whoever makes a gap after that asks for another look.
            self.journal().grace = false;
            let heal = self
                .view()
                .lacking_since(&hopeless)
                .map(|since| (since + GRACE).max(not_before));
            self.journal().grace = heal.is_some();
            tokio::select! {
                // In this order, so that everything asked for until now is answered by the same reading.
                biased;
                // A new gap: its grace is awaited.
                () = self.asked().gap.notified() => continue,
                () = self.asked().reading.notified() => {
                    due = due.min(not_before);
                    self.journal().begun = true;
                    continue;
                }
                () = self.asked().other_epoch.notified() => {
                    due = due.min(last_reading.map_or(not_before, |last| last + OTHER_EPOCH_GAP).max(not_before));
                    continue;
                }
                () = sleep_until(heal.map_or(due, |heal| heal.min(due)).into()) => {}
            }
            let now = Instant::now();
            let mut heal_due = heal.is_some_and(|heal| now >= heal);
            if now < due && !heal_due {
                continue;
            }
            let mut result = Ok(());
            if now >= due {
                last_reading = Some(now);
                hopeless.clear();
                result = self.check_in().await;
                heal_due |=
                    std::mem::take(&mut self.journal().begun) && !self.view().lacking.is_empty();
                due = Instant::now()
                    + self
                        .config()
                        .check_in
                        .mul_f64(rand::random_range(CHECK_IN_SHARE));
            }
            // Both when both are due: however often heads are asked for, what is missing is
            // brought.
            if result.is_ok() && heal_due {
                let before = self.view();
                result = self.heal().await;
                let after = self.view();
                if result.is_ok() && before.root().gaps() == after.root().gaps() {
                    hopeless.clone_from(&after.lacking);
                }
            }
            if let Err(error) = &result {
                not_before = Instant::now() + backoff(error);
                due = not_before;
            }
            self.note(&result);
        }
    }

    /// Logs a failure when it is new, and its end.
    fn note(&self, result: &Result<(), SyncError>) {
        let error = result.as_ref().err().map(ToString::to_string);
        let mut journal = self.journal();
        match (&journal.last_error, &error) {
            (last, Some(error)) if last.as_ref() != Some(error) => {
                tracing::warn!("out of step: {error}")
            }
            (_same, Some(error)) => tracing::debug!("still out of step: {error}"),
            (Some(_last), None) => tracing::info!("in step again"),
            (None, None) => {}
        }
        journal.last_error = error;
    }
}

fn backoff(error: &SyncError) -> Duration {
    let asked = match error {
        SyncError::Origin(error) => error.retry_after().unwrap_or_default(),
        SyncError::Install(_) => Duration::ZERO,
    };
    let asked = asked
        .min(MAX_BACKOFF)
        .mul_f64(rand::random_range(1.0..1.0 + LONGER));
    Duration::from_secs_f64(rand::random_range(BACKOFF)).max(asked)
}
