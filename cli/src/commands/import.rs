//! `confcast import`: writes every document of a file, many at a time, and says which were refused
//! and why.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use contract::{CollectionName, DocumentId, snapshot::SnapshotEnd};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    client::{Api, Refused, Target, Written, refused_with},
    output,
    progress::Progress,
};

/// Writes under way at once.
const IN_FLIGHT: usize = 16;
/// Tries of one write while the publisher says that it cannot right now, and the pause between
/// them.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Create or update documents from newline-delimited JSON
///
/// Takes what `export` writes, or plain lines of {"collection":…,"id":…,"configData":{…}}.
/// Documents that are not in the file stay as they are; `metadata` is merged, as by `put`. Refused
/// lines are reported by number and the others are written; the exit code is 0 only if all were. To
/// import again is harmless: what is there already stays untouched.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// File to read, or - for standard input
    file: PathBuf,
    #[command(flatten)]
    target: Target,
}

/// A line that is a document; revision and crc of an export are not looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    collection: CollectionName,
    id: DocumentId,
    config_data: Box<RawValue>,
}

/// What an import came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    written: u64,
    /// Line and reason.
    refused: Vec<(usize, String)>,
}

/// What the lines have shown so far, in their order.
#[derive(Debug, Default)]
struct Reading {
    line: usize,
    documents: u64,
    is_export: bool,
    ended: Option<u64>,
    seen: HashMap<(CollectionName, DocumentId), usize>,
}

impl Import {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let outcome = import(&self.target.api()?, &self.file).await?;
        output::note(format_args!(
            "{} documents written, {} lines refused",
            outcome.written,
            outcome.refused.len()
        ));
        if !outcome.refused.is_empty() {
            bail!(
                "{} lines of {} were refused",
                outcome.refused.len(),
                self.file.display()
            );
        }
        Ok(())
    }
}

async fn import(api: &Api, file: &Path) -> anyhow::Result<Outcome> {
    let length = tokio::fs::metadata(file)
        .await
        .ok()
        .filter(std::fs::Metadata::is_file)
        .map(|about| about.len());
    let progress = Progress::bytes(length);
    let lines = BufReader::new(super::open(file).await?).split(b'\n');
    let lines = stream::try_unfold(lines, |mut lines| async {
        Ok::<_, io::Error>(lines.next_segment().await?.map(|line| (line, lines)))
    });

    let mut reading = Reading::default();
    let mut outcome = Outcome::default();
    {
        let writes = lines.map(|line| {
            let entry = line.map(|line| {
                progress.inc(line.len() as u64 + 1);
                reading.take(&line)
            });
            let number = reading.line;
            async move {
                match entry.with_context(|| format!("reading {}", file.display()))? {
                    Ok(Some(entry)) => {
                        let written = write(api, &entry).await;
                        settle(written)
                            .map(|settled| (number, settled))
                            .with_context(|| format!("stopped at line {number}"))
                    }
                    Ok(None) => Ok((number, Ok(false))),
                    Err(reason) => Ok((number, Err(reason))),
                }
            }
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(IN_FLIGHT));
        while let Some((line, settled)) = writes.try_next().await? {
            match settled {
                Ok(written) => outcome.written += u64::from(written),
                Err(reason) => {
                    progress.note(format_args!("line {line}: {reason}"));
                    outcome.refused.push((line, reason));
                }
            }
            progress.tell(format!("{} documents written", outcome.written));
        }
    }
    progress.finish();
    reading.finish()?;
    Ok(outcome)
}

/// The service's verdict on one document is a result; that it cannot give one is an error, and the
/// next write would fare no better.
fn settle(written: anyhow::Result<Written>) -> anyhow::Result<Result<bool, String>> {
    match written {
        Ok(_) => Ok(Ok(true)),
        Err(error) => match error.downcast::<Refused>() {
            Ok(refused) if refused.status.is_client_error() => Ok(Err(refused.to_string())),
            Ok(refused) => Err(refused.into()),
            Err(error) => Err(error),
        },
    }
}

async fn write(api: &Api, entry: &Entry) -> anyhow::Result<Written> {
    let put = || {
        api.put(
            &entry.collection,
            &entry.id,
            entry.config_data.get().as_bytes(),
        )
    };
    for _try in 1..TRIES {
        match put().await {
            Err(error) if refused_with(&error, StatusCode::SERVICE_UNAVAILABLE) => {
                tokio::time::sleep(PAUSE).await
            }
            settled => return settled,
        }
    }
    put().await
}

impl Reading {
    /// The document of the next line, if it has one.
    fn take(&mut self, line: &[u8]) -> Result<Option<Entry>, String> {
        self.line += 1;
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        if self.line == 1 && line.starts_with(br#"{"epoch""#) {
            self.is_export = true;
            return Ok(None);
        }
        if self.is_export && line.starts_with(br#"{"end""#) {
            let SnapshotEnd { count, .. } =
                serde_json::from_slice(line).map_err(|error| in_line(&error))?;
            self.ended = Some(count);
            return Ok(None);
        }
        self.documents += 1;
        let entry: Entry = serde_json::from_slice(line).map_err(|error| in_line(&error))?;
        // With many writes under way, which of the two came last would be chance.
        match self
            .seen
            .insert((entry.collection.clone(), entry.id.clone()), self.line)
        {
            Some(first) => Err(format!(
                "{}/{} is in line {first} already",
                entry.collection, entry.id
            )),
            None => Ok(Some(entry)),
        }
    }

    /// Whether an export was there to its end.
    fn finish(&self) -> anyhow::Result<()> {
        match self.ended {
            None if self.is_export => {
                Err(anyhow!("the file is a cut export: its end line is missing"))
            }
            Some(count) if count != self.documents => Err(anyhow!(
                "the file is a damaged export: {count} documents by its end line, {} found",
                self.documents
            )),
            _ => Ok(()),
        }
    }
}

/// The parser sees one line only, so its line number would mislead.
fn in_line(error: &serde_json::Error) -> String {
    error
        .to_string()
        .replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests;
