//! `confcast snapshot`: names the state of a moment, so that retention keeps it.

use clap::Subcommand;
use contract::{history::SnapshotName, named_snapshot::NamedSnapshot};

use super::{confirmation, point, point::shown_time};
use crate::{author::Author, output, target::Target};

/// Give the present state of all collections a name, so that it stays readable
///
/// The change log keeps the past for a limited time. The state of a named snapshot is kept until the
/// snapshot is deleted. `get`, `list` and `diff` read it, and `rollback` goes back to it. At most 100
/// exist at the same time.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Name the present state of all collections
    Create {
        /// Its name: 1 to 64 of A-Z a-z 0-9 . _ -
        name: SnapshotName,
        #[command(flatten)]
        author: Author,
        #[command(flatten)]
        output: Output,
    },
    /// List the named snapshots
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show the collections of a named snapshot
    Show {
        /// Its name
        name: SnapshotName,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a named snapshot: what only it keeps can then no longer be read
    ///
    /// The user and the reason are in the log of the publisher.
    Delete {
        /// Its name
        name: SnapshotName,
        /// Do not ask for confirmation; required where there is no terminal
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        author: Author,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, clap::Args)]
struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl SnapshotCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Create {
                name,
                author,
                output,
            } => {
                let publisher = author.writing(output.target.endpoint()?, false);
                let created = publisher.create_snapshot(&name).await;
                let snapshot = created.map_err(|error| {
                    super::explained(&publisher, error, "PUT /v1/snapshots/NAME")
                })?;
                let is_number = name.as_str().bytes().all(|byte| byte.is_ascii_digit());
                if is_number || point::time(name.as_str()).is_ok() {
                    output::note(format_args!(
                        "`diff` reads @{name} as a time or a revision: write @snapshot:{name}"
                    ));
                }
                if output.json {
                    return output::json(&snapshot);
                }
                Ok(output::result(format_args!(
                    "the snapshot {name} has {} documents in {} collections",
                    documents(&snapshot),
                    snapshot.collections.len()
                ))?)
            }
            Action::List { output } => {
                let publisher = output.target.endpoint()?;
                let listed = publisher.snapshots().await;
                let snapshots = listed
                    .map_err(|error| super::explained(&publisher, error, "GET /v1/snapshots"))?;
                if output.json {
                    return output::json(&snapshots);
                }
                Ok(output::result_table(&list(&snapshots))?)
            }
            Action::Show { name, output } => {
                let publisher = output.target.endpoint()?;
                let snapshot = publisher.named_snapshot(&name).await?;
                if output.json {
                    return output::json(&snapshot);
                }
                output::result_table(&list(std::slice::from_ref(&snapshot)))?;
                Ok(output::result_table(&collections(&snapshot))?)
            }
            Action::Delete {
                name,
                yes,
                author,
                target,
            } => {
                let publisher = author.writing(target.endpoint()?, false);
                if !yes {
                    confirmation::ask(&format!("delete the snapshot {name}"))?;
                }
                publisher.delete_snapshot(&name).await?;
                Ok(output::result(format_args!(
                    "the snapshot {name} was deleted"
                ))?)
            }
        }
    }
}

fn documents(snapshot: &NamedSnapshot) -> u64 {
    let counts = snapshot.collections.iter().map(|each| each.count);
    counts.sum()
}

fn list(snapshots: &[NamedSnapshot]) -> output::Table {
    let mut table =
        output::wrapping_table(["name", "time", "user", "reason", "collections", "documents"]);
    for snapshot in snapshots {
        table.add_row([
            snapshot.name.to_string(),
            shown_time(snapshot.time),
            snapshot.context.user_id().unwrap_or_default().to_owned(),
            snapshot.context.reason().unwrap_or_default().to_owned(),
            snapshot.collections.len().to_string(),
            documents(snapshot).to_string(),
        ]);
    }
    table.align_right([4, 5]);
    table
}

fn collections(snapshot: &NamedSnapshot) -> output::Table {
    let mut table = output::table(["collection", "epoch", "revision", "documents", "digest"]);
    for each in &snapshot.collections {
        table.add_row([
            each.collection.to_string(),
            each.epoch.to_string(),
            each.revision.to_string(),
            each.count.to_string(),
            each.digest.to_string(),
        ]);
    }
    table.align_right([2, 3]);
    table
}
