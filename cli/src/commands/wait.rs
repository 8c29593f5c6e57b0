//! `--wait` of the commands that write: they end when replicas have applied the write.
//!
//! The write is committed before anything is waited for. A wait that is in vain, or that cannot be
//! followed, fails the command and says so; it never repeats the write.

use std::time::Duration;

use anyhow::{Context, ensure};
use client::{ClientError, Endpoint, RetryPolicy, applied::WaitOptions, retry};
use contract::{
    CollectionName, DocumentId, Revision, Written,
    applied::{self, Applied, WaitFor},
};
use tokio::time::{Instant, sleep_until};

use crate::{
    output::{self, NotApplied},
    progress::ProgressLine,
};

/// Longest wait of one request where progress is shown between them.
const STEP: Duration = Duration::from_secs(1);

/// Shortest time between two requests: a publisher that stops answers at once.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// What a command that writes waits for
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct WaitArgs {
    /// Wait until live replicas have applied the write: all of them (also without a value), a number, or
    /// a part like 90%. If they have not in time, or it cannot be known, the write stays, the replicas
    /// that have not are shown, and the exit code is 3
    #[arg(
        long,
        value_name = "all|N|N%",
        num_args = 0..=1,
        // A value after a space would be the name of a collection or file.
        require_equals = true,
        default_missing_value = "all"
    )]
    wait: Option<WaitFor>,
    /// How long to wait at most, like 5s or 500ms; 60s at most
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        requires = "wait",
        value_parser = applied::timeout
    )]
    timeout: Duration,
}

/// What was written, for a wait that goes on.
#[derive(Debug, Clone, Copy)]
struct Awaited<'a> {
    collection: &'a CollectionName,
    /// The only document of the write.
    id: Option<&'a DocumentId>,
    /// The last revision of the write.
    revision: Revision,
}

impl WaitArgs {
    /// Whether the command waits.
    pub(crate) fn is_asked(&self) -> bool {
        self.wait.is_some()
    }

    /// The endpoint, whose writes wait for a short time: [`Self::follow`] goes on.
    pub(crate) fn first(&self, publisher: Endpoint) -> Endpoint {
        publisher.waiting(self.options(self.timeout.min(STEP)))
    }

    /// The endpoint, whose writes wait for what is left of the time after waits of `waited`.
    pub(crate) fn rest(&self, publisher: &Endpoint, waited: Duration) -> Endpoint {
        let left = self.timeout.saturating_sub(waited);
        publisher.clone().waiting(self.options(left))
    }

    fn options(&self, timeout: Duration) -> Option<WaitOptions> {
        self.wait.map(|wait| WaitOptions { wait, timeout })
    }

    /// Waits on after the answer to the write of a document, shows the progress, and prints the result.
    ///
    /// # Errors
    /// When it is not reached in time, or cannot be known.
    pub(crate) async fn follow(
        &self,
        publisher: &Endpoint,
        collection: &CollectionName,
        written: Written,
    ) -> anyhow::Result<()> {
        let Some(wait) = self.wait else {
            return Ok(());
        };
        let of = Awaited {
            collection,
            id: Some(&written.id),
            revision: written.revision,
        };
        let first = written.applied.ok_or_else(|| unknown(publisher))?;
        let applied = match first.reached {
            true => first,
            false => self.poll(wait, publisher, of, Some(first)).await?,
        };
        report(&applied, "")
    }

    /// Waits for writes that are committed, in each collection up to the last revision, and prints the
    /// results.
    ///
    /// # Errors
    /// When it is not reached in time, or cannot be known.
    pub(crate) async fn until_applied(
        &self,
        publisher: &Endpoint,
        revisions: impl IntoIterator<Item = (&CollectionName, &Revision)>,
    ) -> anyhow::Result<()> {
        let Some(wait) = self.wait else {
            return Ok(());
        };
        let begun = Instant::now();
        // All collections are reported, also after one that was not reached.
        let mut late = Vec::new();
        for (collection, &revision) in revisions {
            let of = Awaited {
                collection,
                id: None,
                revision,
            };
            let left = Self {
                timeout: self.timeout.saturating_sub(begun.elapsed()),
                ..*self
            };
            let applied = left.poll(wait, publisher, of, None).await?;
            match report(&applied, &format!("{collection}: ")) {
                Err(error) if error.is::<NotApplied>() => late.push(error.to_string()),
                reported => reported?,
            }
        }
        ensure!(late.is_empty(), NotApplied(late.join("; ")));
        Ok(())
    }

    /// Prints the result of writes whose answers say everything; nothing where they are printed as JSON.
    ///
    /// # Errors
    /// When it was not reached in time, or is not known.
    pub(crate) fn finish<'a>(
        &self,
        publisher: &Endpoint,
        answers: impl IntoIterator<Item = Option<&'a Applied>>,
        json: bool,
    ) -> anyhow::Result<()> {
        if self.wait.is_none() {
            return Ok(());
        }
        let answers: Option<Vec<_>> = answers.into_iter().collect();
        let answers = answers.ok_or_else(|| unknown(publisher))?;
        // The first that was not reached says why; what came after it had less time.
        let late = answers.iter().find(|applied| !applied.reached);
        let Some(&shown) = late.or(answers.last()) else {
            return Ok(());
        };
        let applied = Applied {
            waited_ms: answers.iter().map(|applied| applied.waited_ms).sum(),
            ..shown.clone()
        };
        match (json, applied.reached) {
            (true, true) => Ok(()),
            (true, false) => Err(NotApplied(not_reached(&applied, "")).into()),
            (false, _) => report(&applied, ""),
        }
    }

    /// Asks until it is reached or the time is over.
    async fn poll(
        &self,
        wait: WaitFor,
        publisher: &Endpoint,
        of: Awaited<'_>,
        first: Option<Applied>,
    ) -> anyhow::Result<Applied> {
        let progress = ProgressLine::counted();
        let applied = self.steps(wait, publisher, of, first, &progress).await;
        progress.finish();
        applied.with_context(|| {
            NotApplied(format!(
                "revision {} of {} is committed and stays, but how many replicas have applied it is not \
                 known",
                of.revision, of.collection
            ))
        })
    }

    async fn steps(
        &self,
        wait: WaitFor,
        publisher: &Endpoint,
        of: Awaited<'_>,
        first: Option<Applied>,
        progress: &ProgressLine,
    ) -> Result<Applied, ClientError> {
        let begun = Instant::now();
        let before = first.as_ref().map_or(0, |first| first.waited_ms);
        let before = Duration::from_millis(before);
        let mut newest = first;
        loop {
            let waited = before + begun.elapsed();
            let left = self.timeout.saturating_sub(waited);
            if let Some(mut applied) = newest {
                progress.applied(applied.applied, applied.replicas);
                if applied.reached || left.is_zero() {
                    applied.waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                    return Ok(applied);
                }
            }
            let timeout = left.min(STEP);
            let next = Instant::now() + timeout.min(MIN_PAUSE);
            let wait = WaitOptions { wait, timeout };
            // A publisher that is unavailable for a moment loses nothing: the write is committed.
            let policy = RetryPolicy {
                deadline: Some(left),
                ..RetryPolicy::COMMAND
            };
            let answer = policy.run(retry::is_transient, || {
                publisher.applied(of.collection, of.revision, of.id, wait)
            });
            let answer = answer.await?;
            if !answer.reached {
                sleep_until(next).await;
            }
            newest = Some(answer);
        }
    }
}

/// What is wrong with an answer that does not say what was asked for.
fn unknown(publisher: &Endpoint) -> NotApplied {
    NotApplied(format!(
        "the write is committed and stays, but {} does not say how many replicas have applied it",
        publisher.base()
    ))
}

/// Prints the result of a wait; `what` begins its line.
fn report(applied: &Applied, what: &str) -> anyhow::Result<()> {
    if applied.reached {
        return Ok(output::result(format_args!("{what}{}", reached(applied)))?);
    }
    if !applied.missing.is_empty() {
        output::result_table(&table(&applied.missing))?;
    }
    Err(NotApplied(not_reached(applied, what)).into())
}

fn reached(applied: &Applied) -> String {
    let Applied {
        replicas,
        applied: number,
        waited_ms,
        ..
    } = applied;
    let gone = gone(applied);
    if *replicas == 0 {
        return format!("no live replica follows this, so there was nothing to wait for{gone}");
    }
    format!("applied by {number} of {replicas} replicas after {waited_ms} ms{gone}")
}

/// What is said of replicas that are not live or not listed.
fn gone(applied: &Applied) -> String {
    let gone = match applied.gone {
        0 => String::new(),
        1 => "; 1 replica is gone and was not counted".to_owned(),
        gone => format!("; {gone} replicas are gone and were not counted"),
    };
    match applied.unlisted {
        0 => gone,
        unlisted => format!(
            "{gone}; of {unlisted} more nothing is known, because the list of the publisher is full"
        ),
    }
}

fn not_reached(applied: &Applied, what: &str) -> String {
    let Applied {
        replicas,
        applied: number,
        waited_ms,
        wait,
        missing,
        ..
    } = applied;
    let behind = replicas.saturating_sub(*number);
    let unnamed = behind.saturating_sub(missing.len() as u64);
    let gone = gone(applied);
    let hint = match (unnamed, missing.is_empty()) {
        (0, true) if applied.unlisted > 0 => String::new(),
        (0, true) => format!("; no more than {replicas} are live"),
        (0, false) => String::new(),
        (_, true) => "; to see which have not takes the right observe".to_owned(),
        (unnamed, false) => format!("; {unnamed} more are not listed"),
    };
    format!(
        "{what}the write is committed and stays, but it is applied by {number} of {replicas} replicas \
         after {waited_ms} ms, and --wait={wait} asks for more{hint}{gone}"
    )
}

/// The replicas that have not applied a write.
fn table(missing: &[applied::NotApplied]) -> output::Table {
    let mut table = output::wrapping_table(["replica", "reason", "revision", "detail"]);
    for one in missing {
        table.add_row([
            one.instance.clone(),
            one.reason.as_str().to_owned(),
            one.revision.to_string(),
            one.detail.clone(),
        ]);
    }
    table.align_right([2]);
    table
}

#[cfg(test)]
mod tests;
