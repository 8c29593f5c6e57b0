//! What a campaign did and found: a table for people, a file for machines.

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
    observations::Observations,
    record::{Outcome, WriteRecord},
    schedule::FaultKind,
    validators::{Findings, Promise},
};
use crate::testbed::dependencies::repository_root;

/// The result of a campaign.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Repeats its schedule.
    pub seed: u64,
    /// What carried the events.
    pub transport: &'static str,
    /// How long it took.
    pub seconds: u64,
    /// How many faults were asked for; fewer are dealt when time is up.
    pub asked: usize,
    /// Faults by kind.
    pub faults: BTreeMap<FaultKind, usize>,
    /// Writes by outcome: acknowledged, refused, unknown.
    pub writes: [usize; 3],
    /// Requests by what they were and the status they got; 0 is no answer.
    pub requests: BTreeMap<String, usize>,
    /// Acknowledged writes of several documents.
    pub sets: usize,
    /// Changes that were acknowledged, each of which had to be sent to every replica.
    pub changes: usize,
    /// Attempts to send an event that succeeded, and that failed, as far as publishers could be
    /// asked: what one did in the moment before it was killed is not in it, nor what it did
    /// while it did not answer and then never again.
    pub events: [u64; 2],
    /// What replicas did with what reached them, as far as they could be asked: changes that an
    /// event brought, changes that the feed brought first, snapshots. Without the first a
    /// campaign says nothing of the way it is named after.
    pub arrivals: [u64; 3],
    /// Databases put back to a dump.
    pub restores: usize,
    /// Histories that readers saw begin.
    pub epochs: usize,
    /// Collections that replicas found diverged and loaded anew.
    pub resets: u64,
    /// Orderly ends.
    pub stops: usize,
    /// The longest of them.
    pub slowest_stop: Duration,
    /// Lives with a wall clock that was an hour off.
    pub shifted: usize,
    /// Files with last known good values that were spoilt, and that a replica found damaged.
    pub spoilt: [usize; 2],
    /// Lives that began with what was on disk.
    pub from_disk: usize,
    /// Views that were read.
    pub observations: u64,
    /// How long replicas took to equal the publisher, round by round.
    pub convergence: Vec<Duration>,
    /// What the judge found.
    pub findings: Findings,
    /// Where logs, journal and observations of a failure are.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Counts what was written and seen.
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
        let mut epochs = BTreeSet::new();
        for record in records {
            let record = record.lock().unwrap_or_else(PoisonError::into_inner);
            self.observations += record.count;
            self.resets += record.resets.values().sum::<u64>();
            epochs.extend(record.epochs.iter().cloned());
        }
        // The first was there before.
        self.epochs = epochs.len().saturating_sub(1);
    }

    /// Counts what was done beside killing; `said` is all that each replica said.
    pub fn count_actions(&mut self, actions: &Actions, said: &[String]) {
        self.stops = actions.stops.len();
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

    /// Nothing if every promise held, else what was broken.
    ///
    /// # Errors
    /// When a promise was broken, or no event came at all: the feed alone keeps most promises, and
    /// nothing would be known of the way.
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
        let (restores, epochs, resets) = (self.restores, self.epochs, self.resets);
        writeln!(
            f,
            "histories       {restores} restores, {epochs} epochs declared, {resets} resets"
        )?;
        let ([spoilt, noticed], from_disk) = (self.spoilt, self.from_disk);
        writeln!(
            f,
            "disks           {from_disk} starts from disk, {spoilt} files spoilt, {noticed} found damaged"
        )?;
        let (stops, slowest, shifted) = (self.stops, self.slowest_stop, self.shifted);
        writeln!(
            f,
            "lives           {stops} orderly ends, longest {slowest:.1?}, {shifted} with a clock that is off"
        )?;
        writeln!(f, "observations    {}", self.observations)?;
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
