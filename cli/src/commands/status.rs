//! `confcast status`: the state of the publisher and of every replica. It compares revisions and
//! digests, never documents: that is `confcast verify`.

mod collection_table;
mod reasons;
mod replica;
mod replica_table;
mod reply;
mod unusable;

use anyhow::ensure;
use client::{ClientError, Endpoint, dead_letters::LetterSelection};
use contract::{
    Head, Heads,
    fleet::{EventBacklog, MAX_BACKLOG, ReplicaList},
    named_snapshot::NamedSnapshot,
    status::ReplicaStatus,
};
use futures_util::future::join_all;
use serde::Serialize;

use self::{reasons::IntakeRemedy, replica::ReplicaView, reply::Reply};
use super::restore;
use crate::{
    output,
    target::{Subscribers, Target},
};

/// Events that are not published are late after this time, in milliseconds.
pub(super) const LATE_EVENT_MS: u64 = 2_000;
/// Failures that the last line names, and characters of each.
const MAX_FAILURES: usize = 20;
const MAX_FAILURE: usize = 500;

/// Show the state of the publisher and of every replica
///
/// Prints one line about the publisher and one row per replica: its state (current, stale, behind,
/// partial, loading, different from the publisher, gone, unreachable), its lag in revisions over all
/// collections, whether events reach it, when it was last seen, and the reason and the remedy when
/// something is not well. Events that are behind the feed under load are shown ("N behind", and a line
/// for those that are not published), and are no failure. --collections prints a row per replica and collection instead.
///
/// The replicas are those that checked in with the publisher, as they were at that time. Those
/// named with --subscriber are asked directly instead. When the service keeps no list of replicas
/// (an older publisher, or a subscriber), the named replicas are asked, else those that
/// `confcast up` starts.
///
/// --json prints an object. `publisher` is the answer of GET /v1/collections. `replicaList` is the
/// answer of GET /v1/replicas, and absent when replicas were asked directly; `replicas` is the
/// answer of GET /v1/status of each replica that was asked. Each of them has `url`, and `answer` or
/// `error`. `notReady` says why the publisher does not do all of its work (GET /readyz).
/// `openDeadLetters` is the number of events that no replica took and that were not sent
/// again (confcast dead-letters).
///
/// The exit code is 0 only if the publisher is ready, it and all replicas answer, every collection of every
/// replica is `current`, no digest differs, no service refuses a value or has a failing handler, and
/// the last load or check-in of each replica succeeded, and no `confcast restore` was left unfinished; what failed is printed below the table with
/// the place and the error. A replica that is gone (silent for more than three check-in intervals,
/// for instance because it was scaled away) and one that events do not reach (disconnected,
/// not-receiving, unverified, shared-consumer-group: changes arrive with its check-ins) are shown, and
/// are failures only with --strict.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    subscribers: Subscribers,
    /// Print a row per replica and collection
    #[arg(long)]
    collections: bool,
    /// Fail also when a replica is gone or events do not reach it, or when there is no replica
    #[arg(long)]
    strict: bool,
    /// Print JSON instead of tables
    #[arg(long, conflicts_with = "collections")]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// The replies of all services.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    publisher: Reply<Heads>,
    /// Absent when replicas were asked directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica_list: Option<Reply<ReplicaList>>,
    replicas: Vec<Reply<ReplicaStatus>>,
    /// Absent when the publisher keeps no dead letters, or did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_dead_letters: Option<u64>,
    /// Why the publisher does not do all of its work; absent where it does, or where it gives no heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<String>,
    /// The marks of restores that were not finished.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unfinished_restores: Vec<NamedSnapshot>,
}

impl Status {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let report = Report::gather(&self.target.endpoint()?, &self.subscribers).await?;
        if self.json {
            output::json(&report)?;
        } else if self.collections {
            output::result_table(&report.head_table())?;
            report.print_replicas(&report.collection_table())?;
        } else {
            output::result(report.summary())?;
            report.print_replicas(&report.replica_table())?;
        }
        if !self.json {
            report.print_backlog()?;
            report.print_dead_letters()?;
        }
        let failures = report.failures(self.strict);
        ensure!(
            failures.is_empty(),
            "not everything is well: {}",
            in_short(&failures)
        );
        Ok(())
    }
}

/// The first failures, and how many there are besides: there may be thousands of replicas, and each says what
/// it likes.
fn in_short(failures: &[String]) -> String {
    let shown = failures.iter().take(MAX_FAILURES);
    let mut shown: Vec<String> = shown
        .map(|failure| match failure.char_indices().nth(MAX_FAILURE) {
            Some((end, _char)) => format!("{}…", &failure[..end]),
            None => failure.clone(),
        })
        .collect();
    if failures.len() > MAX_FAILURES {
        shown.push(format!("{} more", failures.len() - MAX_FAILURES));
    }
    shown.join("; ")
}

impl Report {
    async fn gather(publisher: &Endpoint, subscribers: &Subscribers) -> anyhow::Result<Self> {
        // The publisher first: a replica that is asked later is behind these heads only if it
        // really is behind.
        let heads = publisher.heads().await.map(|heads| Heads { heads });
        let replica_list = if subscribers.named.is_empty() {
            publisher.replicas().await.transpose()
        } else {
            None
        };
        let asked = if replica_list.is_none() {
            subscribers.named_or_local(publisher)?
        } else {
            vec![]
        };
        let open_dead_letters = if heads.is_ok() {
            let all = LetterSelection::default();
            let letters = publisher.dead_letters(&all, None, 1).await;
            // An older publisher, or a subscriber, has none.
            letters.ok().map(|list| list.open)
        } else {
            None
        };
        let not_ready = not_ready(publisher, heads.as_ref().err()).await;
        let unfinished_restores = if heads.is_ok() {
            // What cannot list them has none that are known.
            restore::unfinished(publisher).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        let replicas = asked
            .iter()
            .map(async |replica| Reply::new(replica, replica.status().await));
        Ok(Self {
            publisher: Reply::new(publisher, heads),
            replica_list: replica_list.map(|list| Reply::new(publisher, list)),
            replicas: join_all(replicas).await,
            open_dead_letters,
            not_ready,
            unfinished_restores,
        })
    }

    /// All replicas, listed or asked.
    fn replica_rows(&self) -> Vec<ReplicaView> {
        let heads = self.heads();
        let listed = self
            .replica_list
            .iter()
            .filter_map(Reply::answer)
            .flat_map(|list| &list.replicas)
            .map(|record| ReplicaView::checked_in(record, heads));
        let asked = self
            .replicas
            .iter()
            .map(|reply| ReplicaView::asked(reply, heads));
        listed.chain(asked).collect()
    }

    /// Prints a table of the replicas and the remedies of their faults; nothing when the publisher
    /// did not give its replicas.
    fn print_replicas(&self, table: &output::Table) -> anyhow::Result<()> {
        if self.has_replicas() {
            output::result_table(table)?;
        }
        let rows = self.replica_rows();
        let unfollowed = self.unfollowed(&rows);
        if !unfollowed.is_empty() {
            output::result(format_args!(
                "No replica follows {}: start the subscribers with it in \
                 AURA_CONFIGURATION_COLLECTIONS",
                unfollowed.join(", ")
            ))?;
        }
        for replica in rows.iter().filter(|replica| !replica.gone) {
            if let Some(line) = replica.late_topics_line() {
                output::result(line)?;
            }
            for line in &replica.unusable.lines {
                output::result(format_args!("{}: {line}", replica.name))?;
            }
        }
        for remedy in reasons::remedies(intake_faults(&rows)) {
            output::result(remedy)?;
        }
        Ok(())
    }

    /// Prints how many events are not published yet, if one of them is late.
    fn print_backlog(&self) -> anyhow::Result<()> {
        let list = self.replica_list.iter().find_map(Reply::answer);
        match list.and_then(|list| backlog_line(list.backlog?)) {
            None => Ok(()),
            Some(line) => Ok(output::result(line)?),
        }
    }

    /// Prints how many events no replica took, if there are any.
    fn print_dead_letters(&self) -> anyhow::Result<()> {
        match self.open_dead_letters {
            None | Some(0) => Ok(()),
            Some(open) => Ok(output::result(format_args!(
                "Events that no replica took: {open}, see confcast dead-letters list"
            ))?),
        }
    }

    /// Whether it is known which replicas there are.
    fn has_replicas(&self) -> bool {
        self.replica_list
            .as_ref()
            .is_none_or(|reply| reply.error().is_none())
    }

    /// What is not well; empty for exit code 0.
    fn failures(&self, strict: bool) -> Vec<String> {
        let mut failures = Vec::new();
        if let Some(reason) = &self.not_ready {
            failures.push(format!("the publisher is not ready: {reason}"));
        }
        if self.publisher.error().is_some() {
            if self.not_ready.is_none() {
                failures.push("the publisher does not answer".to_owned());
            }
        } else if let Some(error) = self.replica_list.as_ref().and_then(Reply::error) {
            failures.push(format!("the publisher does not list its replicas: {error}"));
        }
        for mark in &self.unfinished_restores {
            failures.push(format!(
                "a restore was not finished ({}): run `confcast restore` with the same backup again",
                restore::described(mark)
            ));
        }
        let rows = self.replica_rows();
        failures.extend(rows.iter().flat_map(ReplicaView::failures));
        if !strict {
            return failures;
        }
        for replica in rows.iter().filter(|replica| replica.gone) {
            failures.push(format!("{} is gone", replica.name));
        }
        for collection in self.unfollowed(&rows) {
            failures.push(format!("no replica follows {collection}"));
        }
        if rows.is_empty() && self.has_replicas() {
            failures.push("no replica has checked in".to_owned());
        }
        for faulty in intake_faults(&rows) {
            failures.push(format!("{} is {}", faulty.replica, faulty.fault.as_str()));
        }
        failures
    }

    /// The collections of the publisher that no replica follows, as far as the replicas say what they
    /// follow.
    fn unfollowed(&self, rows: &[ReplicaView]) -> Vec<&str> {
        let live = || {
            rows.iter()
                .filter(|replica| replica.error.is_none() && !replica.gone)
        };
        if live().next().is_none() {
            return Vec::new();
        }
        let is_followed = |head: &&Head| {
            live()
                .flat_map(|replica| &replica.collections)
                .any(|followed| followed.name == head.collection)
        };
        let heads = self.heads().iter();
        heads
            .filter(|head| !is_followed(head))
            .map(|head| head.collection.as_str())
            .collect()
    }

    fn heads(&self) -> &[Head] {
        self.publisher.answer().map_or(&[], |Heads { heads }| heads)
    }
}

/// Why a publisher does not do all of its work, as `/readyz` says it. A publisher that does not answer at
/// all is not asked again.
async fn not_ready(publisher: &Endpoint, heads: Option<&ClientError>) -> Option<String> {
    if heads.is_some_and(|error| !error.is_answer()) {
        return None;
    }
    match publisher.readiness().await {
        Ok(None) => None,
        Ok(Some(degraded)) => Some(degraded.detail),
        // An older one, or a proxy, may not have the route.
        Err(error) => Some(error.problem()?.detail.clone()),
    }
}

/// A line about events that are not published yet; none while the oldest is younger than
/// [`LATE_EVENT_MS`].
fn backlog_line(backlog: EventBacklog) -> Option<String> {
    let EventBacklog { pending, oldest_ms } = backlog;
    let number = if pending < MAX_BACKLOG {
        pending.to_string()
    } else {
        format!("at least {MAX_BACKLOG}")
    };
    (oldest_ms >= LATE_EVENT_MS).then(|| {
        let seconds = oldest_ms / 1_000;
        format!(
            "Events behind the feed: {number} are not published, the oldest for {seconds} s; \
             replicas read these changes from the feed"
        )
    })
}

/// The live replicas that events do not reach as they should.
fn intake_faults(rows: &[ReplicaView]) -> impl Iterator<Item = IntakeRemedy<'_>> {
    rows.iter().filter_map(|replica| {
        Some(IntakeRemedy {
            replica: &replica.name,
            fault: replica.live_intake_fault()?,
            remedy: replica.remedy.as_deref()?,
        })
    })
}

#[cfg(test)]
mod tests;
