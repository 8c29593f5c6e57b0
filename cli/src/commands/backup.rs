//! `confcast backup`: all documents of one moment in a file, and the check of such a file. It changes
//! nothing at the publisher.

mod create;

use std::path::PathBuf;

use chrono::SecondsFormat;
use clap::Subcommand;

use self::create::Create;
use crate::{
    backup_file::{Backup, BackupFile, Identities},
    output,
};

/// Write all documents to a backup, and check one
///
/// A backup is one compressed file with the documents of all collections at one moment, while writers go
/// on, with checksums that prove it whole. It can be encrypted. `confcast restore` gives the documents to
/// a publisher again, whatever store it has. It has no history, named snapshots, tokens, audit records,
/// schemas or keys.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Box<Create>),
    Verify(Verify),
}

/// Check that a backup is whole, without a publisher
///
/// Reads the whole file: it has all documents that its heads count, each checksum and digest is right, and
/// nothing was added. The exit code is 0 only then.
#[derive(Debug, clap::Args)]
struct Verify {
    /// The backup
    file: PathBuf,
    #[command(flatten)]
    identities: Identities,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl BackupCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Create(create) => create.run().await,
            Action::Verify(verify) => verify.run(),
        }
    }
}

impl Verify {
    fn run(self) -> anyhow::Result<()> {
        let backup = BackupFile::open(&self.file, &self.identities)?.read(|_document| Ok(()))?;
        if self.json {
            return output::json(&backup);
        }
        output::result_table(&table(&backup))?;
        output::result(format_args!("the backup is whole: {}", described(&backup)))?;
        Ok(())
    }
}

/// The collections of a backup.
fn table(backup: &Backup) -> output::Table {
    let mut table = output::table(["collection", "revision", "documents", "digest"]);
    for head in &backup.header.heads {
        table.add_row([
            head.collection.to_string(),
            head.revision.to_string(),
            head.count.to_string(),
            head.digest.to_string(),
        ]);
    }
    table.align_right([1, 2]);
    table
}

/// A backup in one line.
pub(super) fn described(backup: &Backup) -> String {
    let Backup {
        header,
        documents,
        sha256,
        encrypted,
    } = backup;
    let of = header.snapshot.as_ref();
    let of = of.map_or_else(String::new, |name| format!(" of the snapshot {name}"));
    format!(
        "{documents} documents{of} in {} collections, made at {}, epoch {}, {}, SHA-256 {sha256}",
        header.heads.len(),
        header.made_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        header.epoch,
        if *encrypted {
            "encrypted"
        } else {
            "not encrypted"
        },
    )
}
