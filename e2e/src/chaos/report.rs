//! What a campaign did and found: a table for people, a file for machines.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;

use super::{
    journal::{Journal, Outcome},
    judge::{Promise, Verdict},
    observe::Record,
    schedule::Blow,
};
use crate::parts::root;

/// The result of a campaign.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Repeats its schedule.
    pub seed: u64,
    /// How long it took.
    pub seconds: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Blow, usize>,
    /// Writes by outcome: acknowledged, refused, unknown.
    pub writes: [usize; 3],
    /// Requests by what they were and the status they got; 0 is no answer.
    pub requests: BTreeMap<String, usize>,
    /// Acknowledged writes of several documents.
    pub sets: usize,
    /// Changes that were acknowledged, each of which had to be sent to every replica.
    pub changes: usize,
    /// Databases put back to a dump.
    pub restores: usize,
    /// Views that were read.
    pub observations: u64,
    /// How long replicas took to equal the publisher, round by round.
    pub convergence: Vec<Duration>,
    /// What the judge found.
    pub verdict: Verdict,
    /// Where logs, journal and observations of a failure are.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Counts what was written and seen.
    pub fn count(&mut self, journal: &Journal, records: &[Mutex<Record>]) {
        self.writes = [Outcome::Acked, Outcome::Refused, Outcome::Unknown].map(|outcome| journal.count(outcome));
        for write in &journal.writes {
            *self.requests.entry(format!("{} {}", write.what, write.status)).or_default() += 1;
        }
        let acked = || journal.writes.iter().filter(|write| write.outcome == Outcome::Acked);
        self.sets = acked().filter(|write| write.members.len() > 1).count();
        self.changes = acked().map(|write| write.members.len()).sum();
        self.restores = journal.restores.len();
        self.observations =
            records.iter().map(|record| record.lock().unwrap_or_else(PoisonError::into_inner).count).sum();
    }

    /// Writes it to `target/chaos/<seed>.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> anyhow::Result<()> {
        let folder = root().join("target/chaos");
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(format!("{}.json", self.seed)), serde_json::to_vec_pretty(self)?)?)
    }

    /// Nothing if every promise held, else what was broken.
    ///
    /// # Errors
    /// When a promise was broken.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let broken = self.verdict.broken();
        anyhow::ensure!(broken.is_empty(), "{broken:?} did not hold; SEED={} repeats the faults\n{self}", self.seed);
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut convergence = self.convergence.clone();
        convergence.sort_unstable();
        let [longest, median] =
            [convergence.last(), convergence.get(convergence.len() / 2)].map(|took| took.copied().unwrap_or_default());
        let [acked, refused, unknown] = self.writes;
        writeln!(f, "seed            {}", self.seed)?;
        writeln!(f, "time            {} s", self.seconds)?;
        let faults: Vec<_> = self.faults.iter().map(|(blow, count)| format!("{blow:?} {count}")).collect();
        writeln!(f, "faults          {} ({})", self.faults.values().sum::<usize>(), faults.join(", "))?;
        writeln!(f, "writes          {acked} acknowledged ({} sets), {refused} refused, {unknown} unknown", self.sets)?;
        writeln!(
            f,
            "changes         {} acknowledged, sent to every replica; {} restores",
            self.changes, self.restores
        )?;
        writeln!(f, "observations    {}", self.observations)?;
        writeln!(f, "convergence     median {median:.1?}, longest {longest:.1?}, {} times", convergence.len())?;
        for promise in Promise::ALL {
            let checks = self.verdict.checks.get(&promise).copied().unwrap_or_default();
            let broken = self.verdict.violations.iter().filter(|violation| violation.promise == promise).count();
            let word = if broken > 0 { format!("BROKEN {broken} times") } else { "held".to_owned() };
            writeln!(f, "{:<15} {checks:>9} checks, {word}", format!("{promise:?}"))?;
        }
        for violation in self.verdict.violations.iter().take(10) {
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
            writeln!(f, "\nlogs, journal and observations: {}", kept.display())?;
        }
        Ok(())
    }
}
