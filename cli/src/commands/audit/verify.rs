//! `confcast audit verify`: whether the records are those that publishers wrote.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use chrono::Utc;
use client::Endpoint;
use contract::audit::{
    ChainId,
    verify::{Expectation, KnownTip, Report, Verifier},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ROUTE, Records, WRITES_NONE, change_log::ChangeLog, explained};
use crate::{output, target::Target, whole_file};

/// Removals by retention that are shown at most.
const SHOWN_REMOVALS: usize = 20;

/// Check that no record was changed, removed, inserted or moved
///
/// Every chain is recomputed, and the first record of each that is not what was written is named. Online
/// the change log is compared too: a change that was edited or removed in the database is found. What
/// retention removed is shown. The exit code is 1 when anything is found.
///
/// That the newest records of a chain were removed is known only by records that are known from before:
/// with --tips the newest record of each chain is written to a file when all is well, and is expected to
/// be there the next time. Keep that file where administrators of the database cannot write. A record of
/// retention does not explain why a known record is gone, because whoever can remove records can write
/// one; the number of days for which the publisher keeps records does.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// Exported file to check; without it, the log of the publisher
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// File of the records that are known from before; it is written when all is well
    #[arg(long, value_name = "FILE")]
    tips: Option<PathBuf>,
    /// Take it for right that retention removed records that are known from before
    #[arg(long, requires = "tips")]
    allow_removed_tips: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Verify {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let known = match &self.tips {
            Some(path) => read_tips(path)?,
            None => Vec::new(),
        };
        let expected = Expectation {
            tips: known,
            is_part: self.file.is_some(),
            allows_removed: self.allow_removed_tips,
            now: Some(Utc::now()),
            ..Expectation::default()
        };
        let checked = match &self.file {
            Some(path) => of_file(path, expected)?,
            None => online(&self.target.endpoint()?, &expected).await?,
        };
        let faults = checked.faults();
        checked.print(&faults, self.json)?;
        if !faults.is_empty() {
            bail!("the audit log is not what the publishers wrote");
        }
        if let Some(path) = &self.tips {
            write_tips(path, checked.report.tips)?;
        }
        Ok(())
    }
}

/// What was found.
struct Checked {
    report: Report,
    /// The change log, where it was read.
    log: Option<ChangeLog>,
    notes: Vec<String>,
}

impl Checked {
    /// All faults, in words.
    fn faults(&self) -> Vec<String> {
        let mut faults: Vec<_> = self.report.faults.iter().map(ToString::to_string).collect();
        faults.extend(self.log.iter().flat_map(|log| log.faults.clone()));
        faults
    }

    fn print(&self, faults: &[String], as_json: bool) -> anyhow::Result<()> {
        let Report {
            records,
            tips,
            reasons,
            retentions,
            ..
        } = &self.report;
        for note in &self.notes {
            output::note(note);
        }
        let read = self.log.as_ref().filter(|log| log.is_read);
        let compared = read.map(|log| log.compared);
        let retentions: Vec<_> = retentions.iter().map(ToString::to_string).collect();
        if as_json {
            return output::json(&json!({
                "records": records, "faults": faults, "changes": compared, "tips": tips,
                "reasons": reasons, "retentions": retentions,
            }));
        }
        for fault in faults {
            output::result(fault)?;
        }
        for (chain, reason) in reasons {
            output::result(format_args!("chain {chain} began because {reason}"))?;
        }
        let earlier = retentions.len().saturating_sub(SHOWN_REMOVALS);
        if earlier > 0 {
            output::result(format_args!("{earlier} earlier removals by retention"))?;
        }
        for retention in retentions.iter().skip(earlier) {
            output::result(format_args!("retention: {retention}"))?;
        }
        output::result(format_args!(
            "{records} records, {} chains without a fault, {} faults",
            tips.len(),
            faults.len()
        ))?;
        if let Some(compared) = compared {
            output::result(format_args!(
                "{compared} changes of the change log were compared"
            ))?;
        }
        Ok(())
    }
}

fn of_file(path: &Path, expected: Expectation) -> anyhow::Result<Checked> {
    let reading = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(reading)?;
    let mut verifier = Verifier::expecting(expected);
    for line in BufReader::new(file).split(b'\n') {
        let line = line.with_context(reading)?;
        if !line.trim_ascii().is_empty() {
            verifier.add(&line);
        }
    }
    let report = verifier.finish();
    if report.records == 0 && report.faults.is_empty() {
        bail!("{} has no audit record", path.display());
    }
    Ok(Checked {
        report,
        log: None,
        notes: Vec::new(),
    })
}

/// A record that is written, or removed by retention, while the log is read may look like a fault: then
/// the log is read once more.
async fn online(publisher: &Endpoint, expected: &Expectation) -> anyhow::Result<Checked> {
    let checked = once(publisher, expected).await?;
    if checked.faults().is_empty() {
        return Ok(checked);
    }
    once(publisher, expected).await
}

async fn once(publisher: &Endpoint, expected: &Expectation) -> anyhow::Result<Checked> {
    /// The place of a record.
    #[derive(Deserialize)]
    struct Place {
        chain: ChainId,
        sequence: u64,
    }
    // Before the audit log, so that each change that is found has its record there.
    let mut log = ChangeLog::read(publisher).await?;
    let tips = publisher.audit_tips().await;
    let tips = tips.map_err(|error| explained(publisher, error, ROUTE))?;
    let mut notes = Vec::new();
    if !tips.enabled {
        notes.push(WRITES_NONE.to_owned());
    }
    let mut verifier = Verifier::expecting(Expectation {
        one_chain: tips.one_chain,
        retention: tips.retention,
        ..expected.clone()
    });
    // Up to here: what a record names was committed before it, so all of it is read. A chain whose newest
    // row is damaged is not among them, and is read to its end.
    let ends = tips.tips.into_iter();
    let ends: BTreeMap<_, _> = ends.map(|tip| (tip.chain, tip.sequence)).collect();
    let mut records = Records::all(publisher);
    while let Some(page) = records.next().await? {
        for record in page {
            let place = serde_json::from_str(record.get());
            let is_later = place.is_ok_and(|Place { chain, sequence }| {
                ends.get(&chain).is_some_and(|end| sequence > *end)
            });
            if is_later {
                continue;
            }
            if let Some(record) = verifier.add(record.get().as_bytes()) {
                log.compare(&record);
            }
        }
    }
    log.finish(publisher).await?;
    notes.extend(log.notes());
    Ok(Checked {
        report: verifier.finish(),
        log: Some(log),
        notes,
    })
}

/// The newest record of each chain, as a file keeps them.
#[derive(Serialize, Deserialize)]
struct TipsFile {
    tips: Vec<KnownTip>,
}

/// None where the file does not exist yet.
fn read_tips(path: &Path) -> anyhow::Result<Vec<KnownTip>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            output::note(format_args!(
                "{} does not exist: no record is known from before",
                path.display()
            ));
            return Ok(Vec::new());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let TipsFile { tips } = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no file of tips", path.display()))?;
    Ok(tips)
}

/// The file is whole at any time.
fn write_tips(path: &Path, tips: Vec<KnownTip>) -> anyhow::Result<()> {
    let writing = || format!("cannot write {}", path.display());
    let tips = serde_json::to_vec_pretty(&TipsFile { tips }).with_context(writing)?;
    let file = whole_file::beside(path, 0o600, &tips).with_context(writing)?;
    file.persist(path).with_context(writing)?;
    Ok(())
}
