//! `confcast export`: collections as newline-delimited JSON, all of one moment, proven complete.

use std::{
    io::{BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use client::Endpoint;
use contract::{CollectionName, text::Escaped};

use crate::{output, target::Target, whole_file};

/// Write collections as newline-delimited JSON, all of one moment
///
/// With --output the file gets its name only when it is complete. On standard output an export that
/// is cut off lacks its last line, {"end":true,…}, and the exit code is not 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Collections to write; all when none is named
    #[arg(value_name = "COLLECTION")]
    collections: Vec<CollectionName>,
    /// File to write, or - for standard output, which is the default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl Export {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        match self.file() {
            Some(path) => {
                let count = to_file(&publisher, &self.collections, path).await?;
                output::note(format_args!("{count} documents are in {}", path.display()));
            }
            None => {
                let stdout = std::io::stdout();
                let form = if stdout.is_terminal() {
                    Form::Terminal
                } else {
                    Form::Bytes
                };
                copy(&publisher, &self.collections, stdout.lock(), form).await?;
            }
        }
        Ok(())
    }

    /// The file to write; none for standard output.
    fn file(&self) -> Option<&Path> {
        self.output
            .as_deref()
            .filter(|path| *path != Path::new("-"))
    }
}

/// How lines are written.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// As the publisher sends them.
    Bytes,
    /// With hidden characters escaped, which is JSON of the same value.
    Terminal,
}

/// Writes a temporary file first, readable by its owner alone (mode 0600), so that an incomplete export never has the name of a complete
/// one. Gives the number of documents.
async fn to_file(
    publisher: &Endpoint,
    collections: &[CollectionName],
    path: &Path,
) -> anyhow::Result<u64> {
    ensure!(
        !path.exists() || path.is_file(),
        "{} is not a regular file: redirect standard output with > instead",
        path.display()
    );
    let writing = || format!("cannot write {}", path.display());
    let file = whole_file::empty_beside(path, 0o600).with_context(writing)?;
    let count = copy(publisher, collections, &file, Form::Bytes).await?;
    file.as_file().sync_all().with_context(writing)?;
    file.persist(path).with_context(writing)?;
    Ok(count)
}

/// Copies a snapshot line by line, and proves at its end that it is complete.
async fn copy(
    publisher: &Endpoint,
    collections: &[CollectionName],
    to: impl Write,
    form: Form,
) -> anyhow::Result<u64> {
    let mut names = collections.to_vec();
    if names.is_empty() {
        let heads = publisher.heads().await?;
        names.extend(heads.into_iter().map(|head| head.collection));
    }
    let mut to = BufWriter::new(to);
    let mut snapshot = publisher.snapshot(&names).await?.proven();
    write_line(&mut to, snapshot.first_line(), form)?;
    while let Some(record) = snapshot.next_record().await? {
        write_line(&mut to, &record.line, form)?;
    }
    let complete = snapshot.finish()?;
    // Last of all: this line says to the reader that the export is complete.
    write_line(&mut to, &complete.line, form)?;
    to.flush()?;
    Ok(complete.documents)
}

fn write_line(to: &mut impl Write, line: &[u8], form: Form) -> std::io::Result<()> {
    match form {
        Form::Bytes => to.write_all(line)?,
        Form::Terminal => write!(to, "{}", Escaped(String::from_utf8_lossy(line)))?,
    }
    to.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_publisher::{Cut, FakePublisher};

    #[test]
    fn a_dash_is_standard_output() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            export: Export,
        }
        let file = |output: &str| {
            let line = <Line as clap::Parser>::try_parse_from(["export", "-o", output]);
            let line = line.expect("a command");
            line.export.file().map(Path::to_path_buf)
        };
        assert_eq!(file("-"), None);
        assert_eq!(file("./-"), Some("./-".into()));
    }

    #[tokio::test]
    async fn only_a_complete_export_gets_its_name() {
        let publisher = FakePublisher::start().await;
        let name = "ChannelConfiguration".parse().expect("valid");
        let id = "a".parse().expect("valid");
        publisher
            .endpoint()
            .put_or_create(&name, &id, br#"{"b":1, "a":2}"#)
            .await
            .expect("written");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("all.ndjson");

        for cut in [Cut::Connection, Cut::EndLine, Cut::Item] {
            publisher.cut(cut);
            let error = to_file(&publisher.endpoint(), &[], &path)
                .await
                .expect_err("cut");
            assert!(!path.exists(), "{cut:?}: {error:#}");
        }
        publisher.cut(Cut::Nothing);
        assert_eq!(
            to_file(&publisher.endpoint(), &[], &path)
                .await
                .expect("complete"),
            1
        );
        let lines = std::fs::read_to_string(&path).expect("the export");
        assert!(
            lines
                .lines()
                .nth(1)
                .is_some_and(|line| line.ends_with(r#""configData":{"a":2,"b":1}}"#)),
            "{lines}"
        );
        let left: Vec<_> = folder.path().read_dir().expect("the folder").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
