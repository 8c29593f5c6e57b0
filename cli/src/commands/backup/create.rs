//! `confcast backup create`: copies a snapshot to a file, which gets its name when it is proven whole and
//! on the disk.

use std::{
    io::{BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
};

use age::x25519::Recipient;
use anyhow::{Context, anyhow, bail, ensure};
use client::{Endpoint, documents::StoredDocument};
use contract::{
    CollectionName, Document, Head,
    history::{Point, SnapshotName},
    named_snapshot::NamedSnapshot,
    snapshot::{SnapshotEnd, SnapshotItem, SnapshotProof, SnapshotStart},
    text::paths::ShownPath,
};
use stop_signals::StopSignals;

use super::{described, table};
use crate::{
    backup_file::{Backup, BackupWriter, Header, Recipients},
    commands::restore::unfinished,
    output,
    progress::ProgressLine,
    target::Target,
    whole_file,
};

/// Write the documents of all collections, of one moment, to a file
///
/// Writers go on meanwhile. The file is readable by its owner alone (mode 0600) and gets its name when it is
/// complete and on the disk; a file that exists is not replaced. The caller needs the right to read: the
/// backup has the collections that it may read, and lists them. Secrets are sealed in it, as in every export.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// File to write, or - for standard output
    file: PathBuf,
    /// Write the state of this named snapshot instead of the present one
    #[arg(long, value_name = "NAME")]
    snapshot: Option<SnapshotName>,
    #[command(flatten)]
    recipients: Recipients,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Create {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let source = Source {
            publisher: self.target.endpoint()?,
            snapshot: self.snapshot,
            recipients: self.recipients.all()?,
        };
        if self.file == Path::new("-") {
            let stdout = std::io::stdout();
            ensure!(
                !stdout.is_terminal(),
                "a backup is no text for a terminal: name a file, or redirect standard output"
            );
            let copied = async {
                let (mut stdout, backup) = source.copy(stdout.lock()).await?;
                stdout.flush()?;
                output::note(described(&backup));
                Ok(())
            };
            return output::required(copied.await, "no whole backup was written");
        }
        let backup = source.to_file(&self.file).await?;
        show(&backup, &self.file, self.json).with_context(|| {
            let path = ShownPath(&self.file);
            format!("the backup is whole in {path}, and only this text was not written")
        })
    }
}

fn show(backup: &Backup, path: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(backup);
    }
    output::result_table(&table(backup))?;
    output::result(format_args!(
        "the backup is in {}: {}",
        path.display(),
        described(backup)
    ))?;
    Ok(())
}

/// What is copied, and for whom.
struct Source {
    publisher: Endpoint,
    snapshot: Option<SnapshotName>,
    recipients: Vec<Recipient>,
}

impl Source {
    async fn to_file(&self, path: &Path) -> anyhow::Result<Backup> {
        ensure!(
            path.symlink_metadata().is_err(),
            "{} exists already: give each backup a name of its own",
            ShownPath(path)
        );
        let writing = || format!("cannot write {}", ShownPath(path));
        // A file that has no name yet is removed when a signal ends the command.
        let mut signals = StopSignals::install()?;
        let file = whole_file::empty_beside(path, 0o600).with_context(writing)?;
        let copied = tokio::select! {
            copied = self.copy(&file) => copied,
            () = signals.received() => Err(anyhow!("stopped by a signal")),
        };
        let (_file, backup) =
            copied.with_context(|| format!("no backup was made in {}", ShownPath(path)))?;
        whole_file::name_new(file, path).with_context(writing)?;
        Ok(backup)
    }

    /// Copies the state, and ends the backup only when the state is proven whole.
    async fn copy<W: Write>(&self, to: W) -> anyhow::Result<(W, Backup)> {
        let to = BufWriter::new(to);
        let (to, backup) = match &self.snapshot {
            None => self.present(to).await?,
            Some(name) => self.past(name, to).await?,
        };
        let to = to.into_inner().map_err(|error| error.into_error())?;
        Ok((to, backup))
    }

    /// A mix of two states is no state to go back to.
    async fn ensure_restored(&self) -> anyhow::Result<()> {
        if let Some(restore) = unfinished(&self.publisher).await?.first() {
            bail!(
                "a restore into this store was not finished ({}): finish it by the same command first",
                restore.name
            );
        }
        Ok(())
    }

    async fn present<W: Write>(&self, to: W) -> anyhow::Result<(W, Backup)> {
        self.ensure_restored().await?;
        let heads = self.publisher.heads().await?;
        let names: Vec<CollectionName> = heads.into_iter().map(|head| head.collection).collect();
        ensure!(!names.is_empty(), "there is no collection to read");
        let snapshot = self.publisher.snapshot(&names).await?;
        // Also of a restore that began before the snapshot did.
        self.ensure_restored().await?;
        ensure!(
            snapshot.settled != Some(false),
            "the subscriber has changes beyond a gap, so its documents are of no single moment: try again, or \
             another one; `confcast export` takes them as they are"
        );
        let SnapshotStart { epoch, heads } = snapshot.start.clone();
        let header = Header::now(epoch, heads, None);
        let mut writer = BackupWriter::begin(to, &self.recipients, header)?;
        let mut snapshot = snapshot.proven();
        let progress = ProgressLine::counted();
        progress.announce(snapshot.announced());
        while let Some(record) = snapshot.next_record().await? {
            writer.document(&record.line)?;
            progress.document();
        }
        progress.finish();
        snapshot.finish()?;
        writer.finish()
    }

    /// The collections of a named snapshot, one list after the other: its state does not change.
    async fn past<W: Write>(&self, name: &SnapshotName, to: W) -> anyhow::Result<(W, Backup)> {
        let snapshot = self.publisher.named_snapshot(name).await?;
        let start = start_of(&snapshot)?;
        let header = Header::now(start.epoch, start.heads.clone(), Some(name.clone()));
        let mut writer = BackupWriter::begin(to, &self.recipients, header)?;
        let mut proof = SnapshotProof::begin(start);
        let progress = ProgressLine::counted();
        progress.announce(proof.announced());
        let point = Point::Snapshot(name.clone());
        for each in &snapshot.collections {
            let mut list = self.publisher.list_at(&each.collection, &point).await?;
            while let Some(line) = list.next_document().await? {
                let item = item(&each.collection, &line)?;
                proof.item(&item)?;
                let mut line = Vec::new();
                item.document.snapshot_line(&each.collection, &mut line);
                writer.document(line.trim_ascii_end())?;
                progress.document();
            }
        }
        progress.finish();
        let count = proof.received();
        proof.finish(&SnapshotEnd { end: true, count })?;
        writer.finish()
    }
}

/// The heads that the documents of a named snapshot add up to.
fn start_of(snapshot: &NamedSnapshot) -> anyhow::Result<SnapshotStart> {
    let collections = &snapshot.collections;
    let first = collections.first().context("the snapshot is empty")?;
    let heads = collections.iter().map(|each| Head {
        revision: each.revision,
        count: each.count,
        digest: each.digest,
        oldest: each.revision + 1,
        ..Head::empty(each.collection.clone(), each.epoch)
    });
    Ok(SnapshotStart {
        epoch: first.epoch,
        heads: heads.collect(),
    })
}

fn item(collection: &CollectionName, line: &[u8]) -> anyhow::Result<SnapshotItem> {
    let StoredDocument {
        id,
        revision,
        crc,
        config_data,
    } = contract::objects::from_slice(line).context("a line of the list")?;
    Ok(SnapshotItem {
        collection: collection.clone(),
        crc,
        document: Document::new(id, revision, &config_data),
    })
}
