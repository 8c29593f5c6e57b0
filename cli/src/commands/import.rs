//! `confcast import`: writes every document of a file, several at a time, and reports which were
//! refused and why.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use client::{ClientError, Endpoint, RetryPolicy, retry};
use contract::{
    CollectionName, DocumentId, Revision, Written,
    json_file::{self, Expected, JsonFileError},
    snapshot::SnapshotEnd,
};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::wait::WaitArgs;
use crate::{author::Author, input, output, progress::ProgressLine, target::Target};

mod deferred;

use deferred::Deferred;

/// Writes that are in flight at once.
const IN_FLIGHT: usize = 16;

/// Create or update documents from newline-delimited JSON
///
/// Reads what `export` writes, or lines of {"collection":…,"id":…,"configData":{…}}. Documents that
/// are not in the file stay as they are. Each document in it becomes exactly what the file has, so an
/// import restores what `export` wrote; with --merge the stored members of `metadata` stay. Documents
/// that refer to others may be in any order, and those that refer to each other become one change set. Refused
/// lines are reported by number and the others are written; the exit code is 0 only if all were written.
/// Importing again is safe: a document that already has the value of the file is not changed.
///
/// A file is checked before the first write: nothing is written of an export that was cut off. What
/// comes from a pipe cannot be checked before; the error says how many documents were written.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// File to read, or - for standard input
    file: PathBuf,
    /// Keep the stored members of `metadata` that the file does not have, as `put` does
    #[arg(long)]
    merge: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    target: Target,
}

/// A line that is a document; revision and crc of an export are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    collection: CollectionName,
    id: DocumentId,
    config_data: Box<RawValue>,
}

/// The result of an import.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    written: u64,
    /// Of those, the documents that had the value already.
    unchanged: u64,
    /// Line and reason.
    refused: Vec<(usize, String)>,
    /// The last revision that was written in each collection.
    revisions: BTreeMap<CollectionName, Revision>,
}

/// The members that tell the lines of an export apart.
#[derive(Debug, Default, Deserialize)]
struct Markers {
    collection: Option<IgnoredAny>,
    epoch: Option<IgnoredAny>,
    heads: Option<IgnoredAny>,
    end: Option<IgnoredAny>,
}

/// The state of reading the lines in their order.
#[derive(Debug, Default)]
struct Reading {
    line: usize,
    /// Whether a line had any text.
    has_text: bool,
    documents: u64,
    is_export: bool,
    ended: Option<u64>,
    seen: HashMap<(CollectionName, DocumentId), usize>,
}

impl Import {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.author.writing(self.target.endpoint()?, !self.merge);
        let outcome = import(&publisher, &self.file).await?;
        output::note(format_args!(
            "{} documents written, {} of them unchanged, {} lines refused",
            outcome.written,
            outcome.unchanged,
            outcome.refused.len()
        ));
        if !outcome.refused.is_empty() {
            bail!(
                "{} lines of {} were refused",
                outcome.refused.len(),
                self.file.display()
            );
        }
        self.wait
            .until_applied(&publisher, &outcome.revisions)
            .await
    }
}

/// A file that can be read twice is checked as a whole before the first write.
async fn import(publisher: &Endpoint, file: &Path) -> anyhow::Result<Outcome> {
    let length = tokio::fs::metadata(file)
        .await
        .ok()
        .filter(|metadata| metadata.is_file() && file != Path::new("-"))
        .map(|metadata| metadata.len());
    if length.is_some() {
        check(file).await.context("nothing was written")?;
    }
    let progress = ProgressLine::bytes(length);
    let mut outcome = Outcome::default();
    let imported = write_all(publisher, file, &progress, &mut outcome).await;
    progress.finish();
    // Writes that were in flight when it stopped are not counted.
    match (imported, outcome.written) {
        (Ok(()), _) => Ok(outcome),
        (Err(error), 0) => Err(error),
        (Err(error), written) => Err(error.context(format!(
            "at least {written} documents were written before the import stopped, and importing \
             again is safe"
        ))),
    }
}

/// Whether the file is what an import takes: for an export, whether it is whole. A line that is
/// refused does not hold up the others, so it is no error here.
async fn check(file: &Path) -> anyhow::Result<()> {
    let mut reading = Reading::default();
    let mut lines = std::pin::pin!(lines(file).await?);
    while let Some(line) = lines.try_next().await.with_context(|| reading_file(file))? {
        // The import reports it.
        let _line_is_refused = reading.take(&line).is_err();
    }
    reading.finish().with_context(|| cannot_use(file))
}

/// The lines of a file. One of another kind is refused as a whole, and not line by line.
async fn lines(file: &Path) -> anyhow::Result<impl Stream<Item = io::Result<Vec<u8>>> + use<>> {
    let mut lines = BufReader::new(input::open(file).await?).split(b'\n');
    let first = lines.next_segment().await;
    let first = first.with_context(|| reading_file(file))?;
    let first = json_file::first_line(&first.unwrap_or_default())
        .with_context(|| cannot_use(file))?
        .to_vec();
    let further = stream::try_unfold(lines, |mut lines| async {
        Ok::<_, io::Error>(lines.next_segment().await?.map(|line| (line, lines)))
    });
    Ok(stream::once(async { Ok(first) }).chain(further))
}

fn reading_file(file: &Path) -> String {
    format!("reading {}", file.display())
}

fn cannot_use(file: &Path) -> String {
    format!("cannot use {}", file.display())
}

/// Writes the document of each line, several at a time.
async fn write_all(
    publisher: &Endpoint,
    file: &Path,
    progress: &ProgressLine,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let lines = lines(file).await?;
    let mut reading = Reading::default();
    let mut deferred = Deferred::default();
    {
        let writes = lines.map(|line| {
            let entry = line.map(|line| {
                progress.inc(line.len() as u64 + 1);
                reading.take(&line)
            });
            let number = reading.line;
            async move {
                match entry.with_context(|| reading_file(file))? {
                    Ok(Some(entry)) => {
                        let written = write(publisher, &entry).await;
                        anyhow::Ok((number, LineOutcome::Answered(entry, written)))
                    }
                    Ok(None) => Ok((number, LineOutcome::NoDocument)),
                    Err(reason) => Ok((number, LineOutcome::Refused(reason))),
                }
            }
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(IN_FLIGHT));
        while let Some((line, written)) = writes.try_next().await? {
            match written {
                LineOutcome::NoDocument => {}
                LineOutcome::Refused(reason) => {
                    progress.note(format_args!("line {line}: {reason}"));
                    outcome.refused.push((line, reason));
                }
                LineOutcome::Answered(entry, Ok(written)) => {
                    outcome.count(&entry.collection, written.revision, written.changed);
                }
                LineOutcome::Answered(entry, Err(error)) => {
                    if let Err(error) = deferred.take(line, entry, error) {
                        let stopped = || format!("stopped at line {line}");
                        outcome.refuse(line, error).with_context(stopped)?;
                        note_last(progress, outcome);
                    }
                }
            }
            progress.report(format!("{} documents written", outcome.written));
        }
    }
    let refused = outcome.refused.len();
    deferred
        .write(publisher, outcome)
        .await
        .context("stopped at documents that refer to others")?;
    for (line, reason) in &outcome.refused[refused..] {
        progress.note(format_args!("line {line}: {reason}"));
    }
    reading.finish().with_context(|| cannot_use(file))
}

fn note_last(progress: &ProgressLine, outcome: &Outcome) {
    if let Some((line, reason)) = outcome.refused.last() {
        progress.note(format_args!("line {line}: {reason}"));
    }
}

/// What became of a line.
enum LineOutcome {
    /// It has no document.
    NoDocument,
    /// It cannot be read.
    Refused(String),
    /// The publisher answered, or did not.
    Answered(Entry, Result<Written, ClientError>),
}

impl Outcome {
    /// Counts a document that was written.
    fn count(&mut self, collection: &CollectionName, revision: Revision, changed: bool) {
        let last = self.revisions.entry(collection.clone()).or_insert(0);
        *last = revision.max(*last);
        self.written += 1;
        self.unchanged += u64::from(!changed);
    }

    /// Adds the line of a document that the publisher refused.
    ///
    /// # Errors
    /// Any other failure ends the import: the next write would fail in the same way.
    fn refuse(&mut self, line: usize, error: ClientError) -> Result<(), ClientError> {
        match error.status() {
            // Not the document is refused, but more requests of this caller. The rest would be, too.
            Some(429) => Err(error),
            Some(400..500) => {
                self.refused.push((line, error.to_string()));
                Ok(())
            }
            _other => Err(error),
        }
    }
}

/// Writes one document, and again while the publisher is busy.
async fn write(publisher: &Endpoint, entry: &Entry) -> Result<Written, ClientError> {
    let value = entry.config_data.get().as_bytes();
    RetryPolicy::COMMAND
        .run(retry::is_busy, || {
            publisher.put_or_create(&entry.collection, &entry.id, value)
        })
        .await
}

impl Reading {
    /// Reads the next line, and gives its document if it has one. The first and the last line of an
    /// export are known by their members wherever they stand: a tool such as `sort` or `jq -S` may have
    /// changed the order of lines and members.
    fn take(&mut self, line: &[u8]) -> Result<Option<Entry>, String> {
        self.line += 1;
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        self.has_text = true;
        let markers: Markers = serde_json::from_slice(line).unwrap_or_default();
        if markers.collection.is_none() {
            if markers.epoch.is_some() && markers.heads.is_some() {
                self.is_export = true;
                return Ok(None);
            }
            if markers.end.is_some() {
                let SnapshotEnd { count, .. } =
                    contract::objects::from_slice(line).map_err(|error| in_line(&error))?;
                self.ended = Some(count);
                return Ok(None);
            }
        }
        self.documents += 1;
        let entry: Entry = contract::objects::from_slice(line).map_err(|error| in_line(&error))?;
        // With several writes in flight it would be undefined which of the two is written last.
        match self
            .seen
            .insert((entry.collection.clone(), entry.id.clone()), self.line)
        {
            Some(first) => Err(format!(
                "{}/{} is already in line {first}",
                entry.collection, entry.id
            )),
            None => Ok(Some(entry)),
        }
    }

    /// Whether an export was read to its end line.
    fn finish(&self) -> anyhow::Result<()> {
        if !self.has_text {
            bail!(JsonFileError::Empty(Expected::Lines));
        }
        match self.ended {
            None if self.is_export => Err(anyhow!(
                "the file is an export that was cut off: its end line is missing"
            )),
            Some(count) if count != self.documents => Err(anyhow!(
                "the file is a damaged export: {count} documents by its end line, {} found",
                self.documents
            )),
            _ => Ok(()),
        }
    }
}

/// The parser reads one line only, so its line number is always 1 and would mislead.
fn in_line(error: &serde_json::Error) -> String {
    error
        .to_string()
        .replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests;
