//! `confcast restore`: the documents of a backup become those of a store. It shows first what that does.
//!
//! A restore is writes like any others: the schemas and references of today are checked, and it is in the
//! history. What is different is found by comparison with the backup, each time again, so a restore that
//! was stopped is finished by running it again. A named snapshot marks the store until then.

mod epoch;
mod marker;
mod state;
mod write;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, bail, ensure};
use client::Endpoint;
use contract::{
    CollectionName, Head,
    access::{Right, Target as Concerned},
};
use serde::Serialize;

pub(super) use self::marker::{described, unfinished};
use self::{
    epoch::NewEpoch,
    marker::Marker,
    state::{Counts, Plan, Selection},
    write::write_all,
};
use super::{backup, confirmation};
use crate::{
    author::Author,
    backup_file::{Backup, BackupFile, Identities},
    output,
    progress::ProgressLine,
    target::Target,
};

/// Give a store the documents of a backup
///
/// Afterwards the collections have exactly the documents of the backup, whichever store the backup is of:
/// what is missing is created, what is different is replaced, and what the backup does not have is deleted.
/// Then a new epoch is declared, so every replica loads the store. Where replicas follow the lineage of the
/// backup, as they do after their store was lost, the store continues that lineage.
///
/// The whole file is checked before anything is asked. The command shows what will change, and asks; where
/// there is no terminal it changes nothing without --yes, and the exit code is 1. The caller needs the rights
/// of the roles publisher and operator.
///
/// Documents are written in change sets of at most 256: each becomes visible as a whole. Until all is done the
/// store has a named snapshot unfinished-restore-…, `confcast status` reports it and no backup is made; run
/// the same command again to finish. The state before is kept as a named snapshot before-restore-…, whose name
/// ends with the time; no restore removes one.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// The backup
    file: PathBuf,
    /// Collections to restore; all of the backup when none is named
    #[arg(value_name = "COLLECTION")]
    collections: Vec<CollectionName>,
    #[command(flatten)]
    identities: Identities,
    /// Show what would change and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation; required where there is no terminal
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    target: Target,
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    backup: &'a Backup,
    /// What changed, or would change.
    collections: Vec<Counts>,
    /// Absent where no epoch was declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<contract::Epoch>,
    /// The named snapshot of the state before.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

impl Restore {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let file = BackupFile::open(&self.file, &self.identities)?;
        let backup = file.read(|_document| Ok(()))?;
        let author = self
            .author
            .because(|| format!("restore of the backup {:.16}", backup.sha256.to_string()));
        let publisher = author.writing(self.target.endpoint()?, true);
        let selection = selection(&backup, self.collections)?;
        let heads = publisher.heads().await?;
        check(&publisher, &selection, &heads).await?;

        let plan = Plan::new(&publisher, &file, &selection, &BTreeSet::new()).await?;
        let changes = !plan.is_empty();
        let marker = Marker::find(&publisher, &backup, &selection, &heads, changes).await?;
        let epoch = NewEpoch::of(&publisher, &backup, &heads).await?;
        let mut report = Report {
            backup: &backup,
            collections: plan.counts().into_iter().cloned().collect(),
            epoch: None,
            before: None,
        };
        let is_done = plan.is_empty() && !marker.is_unfinished() && !epoch.is_adoption();
        let mut remarks: Vec<String> = untouched(&heads, &selection).into_iter().collect();
        if !is_done {
            remarks.extend(marker.remarks());
        }
        remarks.extend(epoch.remarks());
        if is_done {
            let done = "nothing to restore: the store has the documents of the backup";
            remarks.push(done.to_owned());
        }
        let shown = match self.json {
            true => Ok(()),
            false => show(&backup, &plan, remarks),
        };
        if self.dry_run || is_done {
            return match self.json {
                true => output::json(&report),
                false => shown,
            };
        }
        output::required(shown, "nothing was restored")?;
        if !self.yes {
            confirmation::ask(&plan.question())?;
        }
        report.before = marker.begin(&publisher).await?;
        let written = match write_until_equal(&publisher, &file, &selection, plan).await {
            Ok(()) => marker.ensure_alone(&publisher).await,
            failed => failed,
        };
        if let Err(error) = written {
            return Err(error.context(format!(
                "the restore is not finished: remove the cause and run the same command again. Until then \
                 the store has the snapshot {}",
                marker.name()
            )));
        }
        let declared = epoch.declare(&publisher).await?;
        marker.end(&publisher).await.with_context(|| {
            format!(
                "the documents are restored and the epoch is {declared}, but the restore is not ended ({}): run \
                 the same command again",
                marker.name()
            )
        })?;
        report.epoch = Some(declared);
        if self.json {
            return output::json(&report);
        }
        output::result(format_args!(
            "the store has the documents of the backup, each one compared; the epoch is now {declared}"
        ))?;
        if let Some(before) = &report.before {
            output::result(format_args!(
                "the state before is the named snapshot {before}: `confcast rollback COLLECTION \
                 --to-snapshot {before}` goes back, `confcast snapshot delete {before}` gives it up"
            ))?;
        }
        Ok(())
    }
}

/// Shows what a restore does, before it does it.
fn show(backup: &Backup, plan: &Plan, remarks: Vec<String>) -> anyhow::Result<()> {
    output::result(format_args!("backup: {}", backup::described(backup)))?;
    output::result_table(&table(plan))?;
    for line in remarks {
        output::result(line)?;
    }
    Ok(())
}

/// The collections that are restored.
fn selection(backup: &Backup, named: Vec<CollectionName>) -> anyhow::Result<Selection> {
    let all: Selection = backup.header.collections().cloned().collect();
    if named.is_empty() {
        return Ok(all);
    }
    let named: Selection = named.into_iter().collect();
    let unknown: Vec<&str> = named.difference(&all).map(CollectionName::as_str).collect();
    ensure!(
        unknown.is_empty(),
        "the backup has no collection {}",
        unknown.join(", ")
    );
    Ok(named)
}

/// Whether the publisher serves the collections, and lets this caller change them.
async fn check(publisher: &Endpoint, selection: &Selection, heads: &[Head]) -> anyhow::Result<()> {
    let served: BTreeSet<_> = heads.iter().map(|head| &head.collection).collect();
    let unserved: Vec<&str> = selection
        .iter()
        .filter(|name| !served.contains(name))
        .map(CollectionName::as_str)
        .collect();
    ensure!(
        unserved.is_empty(),
        "{} does not serve {}, or not to this caller: add it to AURA_CONFIGURATION_COLLECTIONS there, or \
         name the collections to restore",
        publisher.base(),
        unserved.join(", ")
    );
    let identity = match publisher.identity().await {
        Ok(identity) => identity,
        // An older publisher: its refusals say the same, later.
        Err(error) if error.is_missing_route() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let operates = identity.require(Right::Operate, Concerned::Service);
    let observes = identity.require(Right::Observe, Concerned::Service);
    for required in [operates, observes] {
        required?;
    }
    for name in selection {
        identity.require(Right::WriteSet, Concerned::Collection(name))?;
    }
    Ok(())
}

/// Writes what is different until nothing is: the comparison is the proof. A round that has to wait for
/// documents of a later one (references) makes progress. One without progress is repeated in halves, and one
/// in halves without progress ends it.
async fn write_until_equal(
    publisher: &Endpoint,
    file: &BackupFile,
    selection: &Selection,
    mut plan: Plan,
) -> anyhow::Result<()> {
    let progress = ProgressLine::counted();
    progress.announce(plan.changes());
    let mut accepted = BTreeSet::new();
    let mut in_halves = false;
    while !plan.is_empty() {
        let round = write_all(
            publisher,
            file,
            selection,
            plan.stored(),
            in_halves,
            &progress,
        )
        .await;
        let mut round = round.inspect_err(|_error| progress.finish())?;
        accepted.append(&mut round.accepted);
        let before = plan.changes();
        plan = Plan::new(publisher, file, selection, &accepted).await?;
        if plan.changes() >= before {
            if in_halves {
                progress.finish();
                bail!("{}", round.reason(&plan));
            }
            in_halves = true;
        }
    }
    progress.finish();
    Ok(())
}

/// What changes, by collection.
fn table(plan: &Plan) -> output::Table {
    let mut table = output::table(["collection", "create", "update", "delete", "unchanged"]);
    for counts in plan.counts() {
        table.add_row([
            counts.collection.to_string(),
            counts.create.to_string(),
            counts.update.to_string(),
            counts.delete.to_string(),
            counts.unchanged.to_string(),
        ]);
    }
    table.align_right([1, 2, 3, 4]);
    table
}

/// What the table does not say of the collections.
fn untouched(heads: &[Head], selection: &Selection) -> Option<String> {
    let others = heads.iter().map(|head| &head.collection);
    let others: Vec<&str> = others
        .filter(|name| !selection.contains(*name))
        .map(CollectionName::as_str)
        .collect();
    (!others.is_empty())
        .then(|| format!("collections that stay as they are: {}", others.join(", ")))
}
