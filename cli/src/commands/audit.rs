//! `confcast audit`: the audit log of the publishers, shown, exported and verified.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use client::{Endpoint, audit::AuditFilter};
use contract::audit::{AuditCursor, AuditPage, AuditRecord, ChainId, DamagedRow, PAGE};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{explained, point};
use crate::{output, target::Target};

mod change_log;
mod verify;

/// What the routes are called in a message.
const ROUTE: &str = "audit log";
/// What is said where no record is written.
const WRITES_NONE: &str = "the publisher writes no audit records now (AURA_CONFIGURATION_AUDIT)";

/// Show, export and verify the audit log: who did what, and who was refused
///
/// Publishers keep one when callers have to present credentials, or with `AURA_CONFIGURATION_AUDIT=on`.
/// It needs the right `audit`. Each record is chained to the one before it, so that none can be changed
/// or removed unnoticed.
#[derive(Debug, clap::Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    List(List),
    Export(Export),
    Verify(verify::Verify),
}

impl Audit {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            AuditCommand::List(command) => command.run().await,
            AuditCommand::Export(command) => command.run().await,
            AuditCommand::Verify(command) => command.run().await,
        }
    }
}

/// Show records, chain by chain, the oldest first
///
/// Each record is a line: time, actor, outcome, kind and detail. A record is shown as it is stored;
/// `verify` says whether it is what was written.
#[derive(Debug, clap::Args)]
struct List {
    /// Only records of this actor, for example token:deploy
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only records of this kind, for example write, rollback or refusal
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only records at this time or later: 2026-11-28T09:00:00Z, 2026-11-28 (0:00 UTC), 15m or '2h 30m ago'
    #[arg(long, value_name = "TIME", value_parser = point::time, allow_hyphen_values = true)]
    from: Option<DateTime<Utc>>,
    /// Only records before this time
    #[arg(long, value_name = "TIME", value_parser = point::time, allow_hyphen_values = true)]
    to: Option<DateTime<Utc>>,
    /// Show this number of records at most; 0 = all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
    /// Print each record as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let filter = AuditFilter {
            chain: None,
            from: self.from.map(time),
            to: self.to.map(time),
            actor: self.actor,
            kind: self.kind,
        };
        let mut left = if self.limit == 0 {
            usize::MAX
        } else {
            self.limit
        };
        let mut after = None;
        let mut found = 0;
        loop {
            let page: AuditPage<Box<RawValue>> = publisher
                .audit_page(&filter, after.as_ref(), left.min(PAGE))
                .await
                .map_err(|error| explained(&publisher, error, ROUTE))?;
            left = left.saturating_sub(page.items.len());
            found += page.items.len();
            for item in page.items {
                match serde_json::from_str::<AuditRecord>(item.get()) {
                    Ok(record) if !self.json => output::result(line(&record))?,
                    _other => output::result(item.get())?,
                }
            }
            after = page.next;
            if after.is_none() {
                if found == 0 {
                    note_empty(&publisher).await;
                }
                return Ok(());
            }
            if left == 0 {
                output::note(
                    "there are further records: --limit 0 shows all, --from TIME the later ones",
                );
                return Ok(());
            }
        }
    }
}

/// Says why there is no record to show.
async fn note_empty(publisher: &Endpoint) {
    output::note(match publisher.audit_tips().await {
        Ok(tips) if !tips.enabled => WRITES_NONE,
        _ => "no audit record is as asked for",
    });
}

/// A record for people.
fn line(record: &AuditRecord) -> String {
    let time = record.time.to_rfc3339_opts(SecondsFormat::Millis, true);
    let user = record.user.as_ref();
    let user = user.map(|user| format!(" for {user}")).unwrap_or_default();
    let outcome = serde_json::to_value(record.outcome).unwrap_or_default();
    format!(
        "{time}  {}{user}  {}  {}  {}",
        record.actor,
        outcome.as_str().unwrap_or_default(),
        record.kind,
        record.detail
    )
}

/// Write all records as newline-delimited JSON, for an archive or for `audit verify FILE`
///
/// An existing file is continued: only records that it does not have are added. So an export that was
/// cut off is completed by the same command, and a regular export holds what retention removes later.
/// The file is readable by its owner alone.
#[derive(Debug, clap::Args)]
struct Export {
    /// File to write or to continue, or - for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    target: Target,
}

impl Export {
    async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        if self.file == Path::new("-") {
            let stdout = std::io::stdout().lock();
            write_missing(&publisher, &BTreeMap::new(), stdout).await?;
            return Ok(());
        }
        let writing = || format!("cannot write {}", self.file.display());
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(&self.file)
            .with_context(writing)?;
        let known = continued(&mut file, &self.file)?;
        let count = write_missing(&publisher, &known, &file).await?;
        file.sync_all().with_context(writing)?;
        output::note(format_args!(
            "{count} records were added to {}",
            self.file.display()
        ));
        Ok(())
    }
}

/// The newest record of each chain in a file. A line that was cut off is removed from it.
fn continued(file: &mut File, path: &Path) -> anyhow::Result<BTreeMap<ChainId, u64>> {
    #[derive(Deserialize)]
    struct Position {
        chain: ChainId,
        sequence: u64,
    }
    let reading = || format!("cannot read {}", path.display());
    let mut known = BTreeMap::new();
    let mut lines = BufReader::new(&*file);
    let mut line = Vec::new();
    let mut whole = 0;
    for number in 1.. {
        line.clear();
        let length = lines.read_until(b'\n', &mut line).with_context(reading)?;
        if length == 0 || line.last() != Some(&b'\n') {
            break;
        }
        if serde_json::from_slice::<DamagedRow>(&line).is_ok() {
            whole += length as u64;
            continue;
        }
        let Position { chain, sequence } = serde_json::from_slice(&line).with_context(|| {
            format!(
                "line {number} of {} is no audit record: name another file",
                path.display()
            )
        })?;
        let newest = known.entry(chain).or_insert(0);
        *newest = sequence.max(*newest);
        whole += length as u64;
    }
    file.set_len(whole).with_context(reading)?;
    file.seek(SeekFrom::End(0)).with_context(reading)?;
    Ok(known)
}

/// Writes all records that are not known, chain by chain; how many they were.
async fn write_missing(
    publisher: &Endpoint,
    known: &BTreeMap<ChainId, u64>,
    to: impl Write,
) -> anyhow::Result<u64> {
    let tips = publisher.audit_tips().await;
    let tips = tips.map_err(|error| explained(publisher, error, ROUTE))?;
    let mut to = BufWriter::new(to);
    let mut count = 0;
    for tip in tips.tips {
        let sequence = known.get(&tip.chain).copied().unwrap_or(0);
        if sequence >= tip.sequence {
            continue;
        }
        let mut records = Records::of(publisher, tip.chain, sequence);
        while let Some(page) = records.next().await? {
            for record in page {
                writeln!(to, "{}", record.get())?;
                count += 1;
            }
            to.flush()?;
        }
    }
    to.flush()?;
    Ok(count)
}

/// The records after a position, page by page.
struct Records<'a> {
    publisher: &'a Endpoint,
    filter: AuditFilter,
    after: Option<AuditCursor>,
    is_end: bool,
}

impl<'a> Records<'a> {
    /// Those of one chain.
    fn of(publisher: &'a Endpoint, chain: ChainId, sequence: u64) -> Self {
        Self {
            filter: AuditFilter {
                chain: Some(chain.clone()),
                ..AuditFilter::default()
            },
            after: Some(AuditCursor { chain, sequence }),
            ..Self::all(publisher)
        }
    }

    /// All rows of the log, also damaged ones.
    fn all(publisher: &'a Endpoint) -> Self {
        Self {
            publisher,
            filter: AuditFilter::default(),
            after: None,
            is_end: false,
        }
    }

    async fn next(&mut self) -> anyhow::Result<Option<Vec<Box<RawValue>>>> {
        if self.is_end {
            return Ok(None);
        }
        let page = self
            .publisher
            .audit_page(&self.filter, self.after.as_ref(), PAGE);
        let page: AuditPage<Box<RawValue>> = page.await?;
        self.is_end = page.next.is_none();
        self.after = page.next;
        Ok(Some(page.items))
    }
}
