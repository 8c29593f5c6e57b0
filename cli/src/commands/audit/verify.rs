//! `confcast audit verify`: whether the records are those that publishers wrote.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use client::Endpoint;
use contract::{
    CollectionName, Epoch, FeedPage, Revision,
    access::{Right, Target as Access},
    audit::{
        AuditedChange, Tip, Tips,
        verify::{Report, Verifier, changes},
    },
    sha256::Sha256,
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{json, value::RawValue};
use tempfile::NamedTempFile;

use super::{ROUTE, Records, WRITES_NONE, explained};
use crate::{output, target::Target};

/// Changes of a page of the change log.
const CHANGES: usize = 1_000;

/// Check that no record was changed, removed, inserted or moved
///
/// Every chain is recomputed, and the first record of each that is not what was written is named. Online
/// the change log is compared too: a change that was edited in the database is found. The exit code is 1
/// when anything is found.
///
/// That the newest records of a chain were removed is known only by records that are known from before:
/// with --tips the newest record of each chain is written to a file when all is well, and is expected to
/// be there the next time. Keep that file where administrators of the database cannot write.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// Exported file to check; without it, the log of the publisher
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// File of the records that are known from before; it is written when all is well
    #[arg(long, value_name = "FILE")]
    tips: Option<PathBuf>,
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
        let checked = match &self.file {
            Some(path) => Checked {
                report: of_file(path, known)?,
                edited: Vec::new(),
                compared: None,
            },
            None => online(&self.target.endpoint()?, &known).await?,
        };
        let Checked {
            report,
            edited,
            compared,
        } = checked;
        let mut faults: Vec<_> = report.faults.iter().map(ToString::to_string).collect();
        faults.extend(edited);
        if self.json {
            output::json(&json!({
                "records": report.records, "faults": faults, "changes": compared,
                "tips": report.tips,
            }))?;
        } else {
            for fault in &faults {
                output::result(fault)?;
            }
            let chains = report.tips.len();
            output::result(format_args!(
                "{} records, {chains} chains without a fault, {} faults",
                report.records,
                faults.len()
            ))?;
            if let Some(compared) = compared {
                output::result(format_args!(
                    "{compared} changes of the change log were compared"
                ))?;
            }
        }
        if !faults.is_empty() {
            bail!("the audit log is not what the publishers wrote");
        }
        if let Some(path) = &self.tips {
            write_tips(path, report.tips)?;
        }
        Ok(())
    }
}

/// What was found.
struct Checked {
    report: Report,
    /// Changes of the log that are not those of the audit log, in words.
    edited: Vec<String>,
    /// Changes that were compared; `None` where the log was not read.
    compared: Option<usize>,
}

fn of_file(path: &Path, known: Vec<Tip>) -> anyhow::Result<Report> {
    let reading = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(reading)?;
    let mut verifier = Verifier::knowing(known);
    for line in BufReader::new(file).split(b'\n') {
        let line = line.with_context(reading)?;
        if !line.trim_ascii().is_empty() {
            verifier.add(&line);
        }
    }
    Ok(verifier.finish())
}

/// A record that is written, or removed by retention, while the log is read may look like a fault: then
/// the log is read once more.
async fn online(publisher: &Endpoint, known: &[Tip]) -> anyhow::Result<Checked> {
    let checked = once(publisher, known).await?;
    if checked.report.faults.is_empty() {
        return Ok(checked);
    }
    once(publisher, known).await
}

async fn once(publisher: &Endpoint, known: &[Tip]) -> anyhow::Result<Checked> {
    // Before the audit log, so that each change that is found has its record there.
    let mut log = match change_log(publisher).await {
        Ok(log) => Some(log),
        Err(error) => {
            output::note(format_args!("the change log was not compared: {error:#}"));
            None
        }
    };
    let tips = publisher.audit_tips().await;
    let tips = tips.map_err(|error| explained(publisher, error, ROUTE))?;
    if !tips.enabled {
        output::note(WRITES_NONE);
    }
    // Up to here: what a record names was committed before it, so all of it is read.
    let ends: BTreeMap<_, _> = publisher
        .audit_tips()
        .await?
        .tips
        .into_iter()
        .map(|tip| (tip.chain, tip.sequence))
        .collect();
    let mut verifier = Verifier::knowing(known.to_vec());
    let mut edited = Vec::new();
    let mut compared = 0;
    let mut not_whole = 0;
    for tip in tips.tips {
        let end = ends.get(&tip.chain).copied().unwrap_or(tip.sequence);
        let mut records = Records::of(publisher, tip.chain, 0);
        let mut read = 0;
        while read < end
            && let Some(page) = records.next().await?
        {
            for record in page {
                let Some(record) = verifier.add(record.get().as_bytes()) else {
                    continue;
                };
                read = record.sequence;
                for change in changes(&record) {
                    let log = log.as_mut();
                    let Some(logged) = log.and_then(|log| log.remove(&key(&change))) else {
                        continue;
                    };
                    let is_equal = logged.digest == change.record;
                    if !is_equal && !logged.is_whole {
                        not_whole += 1;
                        continue;
                    }
                    compared += 1;
                    if !is_equal {
                        edited.push(format!(
                            "revision {} of {} in the change log is not what record {} of chain {} \
                             says: it was edited",
                            change.revision, change.collection, record.sequence, record.chain
                        ));
                    }
                }
                if read >= end {
                    break;
                }
            }
        }
    }
    let left = log.as_ref().map_or(0, BTreeMap::len);
    if left > 0 {
        output::note(format_args!(
            "{left} changes of the change log are in no audit record: they were committed while no log \
             was kept, before retention removed their records, or by other means than a publisher"
        ));
    }
    if not_whole > 0 {
        output::note(format_args!(
            "{not_whole} changes of change sets were not compared: the caller may not read all \
             collections, so the publisher leaves parts of the sets out"
        ));
    }
    Ok(Checked {
        report: verifier.finish(),
        edited,
        compared: log.map(|_left| compared),
    })
}

type ChangeKey = (CollectionName, Epoch, Revision);

fn key(change: &AuditedChange) -> ChangeKey {
    (change.collection.clone(), change.epoch, change.revision)
}

/// A change of the change log.
struct Logged {
    digest: Sha256,
    /// Whether it is as it is stored. A publisher leaves out the parts of a change set that are in
    /// collections that the reader may not read.
    is_whole: bool,
}

/// All changes that the change log has.
async fn change_log(publisher: &Endpoint) -> anyhow::Result<BTreeMap<ChangeKey, Logged>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Position {
        epoch: Epoch,
        revision: Revision,
        change_set: Option<IgnoredAny>,
    }
    let identity = publisher.identity().await?;
    let reads_all = identity.may(Right::Read, Access::Service);
    let mut changes = BTreeMap::new();
    for head in publisher.heads().await? {
        let mut since = head.oldest.saturating_sub(1);
        loop {
            let page: FeedPage<Box<RawValue>> = publisher
                .collection_page(&head.collection, since, head.epoch, CHANGES)
                .await?;
            for item in page.items {
                let Position {
                    epoch,
                    revision,
                    change_set,
                } = serde_json::from_str(item.get())?;
                let logged = Logged {
                    digest: AuditedChange::digest_of_json(item.get().as_bytes())?,
                    is_whole: reads_all || change_set.is_none(),
                };
                changes.insert((head.collection.clone(), epoch, revision), logged);
                since = revision;
            }
            if !page.more {
                break;
            }
        }
    }
    Ok(changes)
}

/// None where the file does not exist yet.
fn read_tips(path: &Path) -> anyhow::Result<Vec<Tip>> {
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
    let Tips { tips, .. } = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no file of tips", path.display()))?;
    Ok(tips)
}

/// The file is whole at any time.
fn write_tips(path: &Path, tips: Vec<Tip>) -> anyhow::Result<()> {
    let writing = || format!("cannot write {}", path.display());
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let file = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).with_context(writing)?;
    let tips = Tips {
        enabled: true,
        tips,
    };
    serde_json::to_writer_pretty(&file, &tips).with_context(writing)?;
    file.as_file().sync_all().with_context(writing)?;
    file.persist(path).with_context(writing)?;
    Ok(())
}
