//! The result of a campaign: a table for people, a JSON file for programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;

use super::{
    actions::{self, Actions},
    followers::Follower,
    observations::Observations,
    record::{Outcome, WriteRecord},
    schedule::FaultKind,
    validators::{Findings, Promise},
};
use crate::testbed::dependencies::repository_root;

/// The result of a campaign.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The seed that repeats its schedule.
    pub seed: u64,
    /// The transport of events.
    pub transport: &'static str,
    /// Duration.
    pub seconds: u64,
    /// Requested number of faults. Fewer are injected when time is up.
    pub asked: usize,
    /// Faults by kind.
    pub faults: BTreeMap<FaultKind, usize>,
    /// Writes by outcome: acknowledged, refused, unknown.
    pub writes: [usize; 3],
    /// Requests by kind and status; 0 is no answer.
    pub requests: BTreeMap<String, usize>,
    /// Acknowledged writes of several documents.
    pub sets: usize,
    /// Acknowledged changes, each of which had to be sent to every replica.
    pub changes: usize,
    /// Successful and failed attempts to send an event, as far as the metrics of publishers were
    /// read: what a publisher counted just before it was killed is missing.
    pub events: [u64; 2],
    /// What replicas applied, as far as their metrics were read: changes by an event, changes by
    /// the feed first, snapshots. If the first is 0, the campaign did not test its transport.
    pub arrivals: [u64; 3],
    /// Restores of the database.
    pub restores: usize,
    /// Epochs that readers saw begin.
    pub epochs: usize,
    /// Collections that replicas found diverged and loaded again.
    pub resets: u64,
    /// Orderly stops.
    pub stops: usize,
    /// The slowest of them.
    pub slowest_stop: Duration,
    /// Runs with a shifted wall clock.
    pub shifted: usize,
    /// Files with last known good values: damaged by the campaign, and found damaged by a replica.
    pub spoilt: [usize; 2],
    /// Runs that began with the values on disk.
    pub from_disk: usize,
    /// Rows of the store that were spoilt.
    pub spoilt_rows: usize,
    /// How often readers stalled.
    pub stalls: usize,
    /// Number of views.
    pub observations: u64,
    /// What followers were told or read: the number of observations, and of streams.
    pub followed: [u64; 2],
    /// Time until replicas equalled the publisher, by round.
    pub convergence: Vec<Duration>,
    /// Findings of the validators.
    pub findings: Findings,
    /// Folder with logs, record and observations, after a failure.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Counts writes and observations.
    pub fn count(&mut self, record: &WriteRecord, records: &[Mutex<Observations>]) {
        self.writes = [Outcome::Acked, Outcome::Refused, Outcome::Unknown]
            .map(|outcome| record.count(outcome));
        for write in &record.writes {
            *self
                .requests
                .entry(format!("{} {}", write.what, write.status))
                .or_default() += 1;
        }
        let acked = || {
            record
                .writes
                .iter()
                .filter(|write| write.outcome == Outcome::Acked)
        };
        self.sets = acked().filter(|write| write.members.len() > 1).count();
        self.changes = acked().map(|write| write.members.len()).sum();
        self.restores = record.restores.len();
        self.spoilt_rows = record.spoilt.len();
        let mut epochs = BTreeSet::new();
        for record in records {
            let record = record.lock().unwrap_or_else(PoisonError::into_inner);
            self.observations += record.count;
            self.resets += record.resets.values().sum::<u64>();
            epochs.extend(record.epochs.iter().cloned());
        }
        // The first epoch existed before the campaign.
        self.epochs = epochs.len().saturating_sub(1);
    }

    /// Counts what followers have seen.
    pub fn count_followers(&mut self, followers: &[Follower]) {
        for follower in followers {
            let record = follower.record();
            self.followed[0] += record.count;
            self.followed[1] += record.streams;
        }
    }

    /// Counts actions; `said` is the whole output of each replica.
    pub fn count_actions(&mut self, actions: &Actions, said: &[String]) {
        self.stops = actions.stops.len();
        self.stalls = actions.stalls.len();
        self.slowest_stop = actions
            .stops
            .iter()
            .map(|stop| stop.took)
            .max()
            .unwrap_or_default();
        self.shifted = actions.shifted;
        let starts: Vec<_> = said.iter().map(|said| actions::starts(said)).collect();
        self.from_disk = starts.iter().map(|(from_disk, _)| from_disk).sum();
        self.spoilt = [
            actions.spoilt,
            starts.iter().map(|(_, damaged)| damaged).sum(),
        ];
    }

    /// Writes it to `target/chaos/<seed>.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> anyhow::Result<()> {
        let folder = repository_root().join("target/chaos");
        fs::create_dir_all(&folder)?;
        Ok(fs::write(
            folder.join(format!("{}.json", self.seed)),
            serde_json::to_vec_pretty(self)?,
        )?)
    }

    /// Checks that every promise held.
    ///
    /// # Errors
    /// When a promise was broken, or when no event reached a replica: the feed alone keeps most
    /// promises, so nothing would be known about the transport.
    pub fn check(&self) -> anyhow::Result<()> {
        let broken = self.findings.broken();
        anyhow::ensure!(
            broken.is_empty(),
            "{broken:?} did not hold; VIA={} SEED={} repeats the faults\n{self}",
            self.transport,
            self.seed
        );
        anyhow::ensure!(
            self.arrivals[0] > 0,
            "no event reached a replica transport {}\n{self}",
            self.transport
        );
        for (promise, unchecked) in [
            (Promise::ExactPast, "no publisher answered about the past"),
            (Promise::EveryChange, "no change came by the component"),
            (Promise::OneMoment, "no folder of files was read"),
        ] {
            let checks = self.findings.checks.get(&promise);
            anyhow::ensure!(
                checks.is_some_and(|checks| *checks > 0),
                "{unchecked}\n{self}"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut convergence = self.convergence.clone();
        convergence.sort_unstable();
        let [longest, median] = [convergence.last(), convergence.get(convergence.len() / 2)]
            .map(|took| took.copied().unwrap_or_default());
        let [acked, refused, unknown] = self.writes;
        writeln!(f, "seed            {}", self.seed)?;
        writeln!(f, "transport             {}", self.transport)?;
        writeln!(f, "time            {} s", self.seconds)?;
        let faults: Vec<_> = self
            .faults
            .iter()
            .map(|(kind, count)| format!("{kind:?} {count}"))
            .collect();
        let dealt = self.faults.values().sum::<usize>();
        writeln!(
            f,
            "faults          {dealt} of {} ({})",
            self.asked,
            faults.join(", ")
        )?;
        writeln!(
            f,
            "writes          {acked} acknowledged ({} sets), {refused} refused, {unknown} unknown",
            self.sets
        )?;
        let [published, failed] = self.events;
        writeln!(
            f,
            "changes         {} acknowledged; {published} events sent, {failed} attempts failed",
            self.changes
        )?;
        let [by_event, by_feed, loads] = self.arrivals;
        writeln!(
            f,
            "arrivals        {by_event} by event, {by_feed} by the feed first; {loads} snapshots"
        )?;
        let restores = self.restores;
        let epochs = self.epochs;
        let resets = self.resets;
        writeln!(
            f,
            "histories       {restores} restores, {epochs} epochs declared, {resets} resets"
        )?;
        let [spoilt, noticed] = self.spoilt;
        let from_disk = self.from_disk;
        writeln!(
            f,
            "disks           {from_disk} starts from disk, {spoilt} files spoilt, {noticed} found damaged"
        )?;
        let stops = self.stops;
        let slowest = self.slowest_stop;
        let shifted = self.shifted;
        writeln!(
            f,
            "lives           {stops} orderly ends, longest {slowest:.1?}, {shifted} with a clock that is off"
        )?;
        let (rows, stalls) = (self.spoilt_rows, self.stalls);
        writeln!(f, "store           {rows} rows spoilt")?;
        writeln!(f, "stalls          readers stalled {stalls} times")?;
        writeln!(f, "observations    {}", self.observations)?;
        let [seen, streams] = self.followed;
        writeln!(
            f,
            "followers       {seen} messages and folders, {streams} streams"
        )?;
        writeln!(
            f,
            "convergence     median {median:.1?}, longest {longest:.1?}, {} times",
            convergence.len()
        )?;
        for promise in Promise::ALL {
            let checks = self
                .findings
                .checks
                .get(&promise)
                .copied()
                .unwrap_or_default();
            let broken = self
                .findings
                .violations
                .iter()
                .filter(|violation| violation.promise == promise)
                .count();
            let word = if broken > 0 {
                format!("BROKEN {broken} times")
            } else {
                "held".to_owned()
            };
            writeln!(
                f,
                "{:<15} {checks:>9} checks, {word}",
                format!("{promise:?}")
            )?;
        }
        for violation in self.findings.violations.iter().take(10) {
            writeln!(
                f,
                "\n{:?} broken by {} at {} ms\n  {}",
                violation.promise, violation.who, violation.at, violation.what
            )?;
            for line in &violation.context {
                writeln!(f, "    {line}")?;
            }
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "\nlogs, record and observations: {}", kept.display())?;
        }
        Ok(())
    }
}
