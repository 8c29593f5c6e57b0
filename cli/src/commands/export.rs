//! `confcast export`: collections as newline-delimited JSON, all of one moment, proven whole.

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use contract::CollectionName;
use tempfile::NamedTempFile;

use crate::{
    client::{Api, Target, lines},
    output,
    whole::Whole,
};

/// Write collections as newline-delimited JSON, all as of one moment
///
/// A file appears under its name only when it is complete. On standard output a cut export lacks
/// its last line, {"end":true,…}, and the exit code is not 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Collections; all when none is named
    #[arg(value_name = "COLLECTION")]
    collections: Vec<CollectionName>,
    /// File to write instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl Export {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let api = self.target.api()?;
        match self.output {
            Some(path) => {
                let count = to_file(&api, &self.collections, &path).await?;
                output::note(format_args!("{count} documents are in {}", path.display()));
            }
            None => _ = copy(&api, &self.collections, std::io::stdout().lock()).await?,
        }
        Ok(())
    }
}

/// Writes beside the file first, so that nothing incomplete ever bears its name.
async fn to_file(api: &Api, collections: &[CollectionName], path: &Path) -> anyhow::Result<u64> {
    ensure!(
        !path.exists() || path.is_file(),
        "{} is not a regular file: redirect with > instead",
        path.display()
    );
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let writing = || format!("cannot write {}", path.display());
    let file = NamedTempFile::new_in(folder).with_context(writing)?;
    let count = copy(api, collections, &file).await?;
    file.as_file().sync_all().with_context(writing)?;
    file.persist(path).with_context(writing)?;
    Ok(count)
}

async fn copy(api: &Api, collections: &[CollectionName], to: impl Write) -> anyhow::Result<u64> {
    let mut names: Vec<String> = collections.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        names = api
            .heads()
            .await?
            .heads
            .iter()
            .map(|head| head.collection.to_string())
            .collect();
    }
    let mut to = BufWriter::new(to);
    let mut whole = Whole::default();
    let mut lines = lines(
        api.get(&format!("/v1/snapshot?collections={}", names.join(",")))
            .await?,
    );
    while let Some(mut line) = lines.next_segment().await.context("the export broke off")? {
        whole.line(&line)?;
        line.push(b'\n');
        to.write_all(&line)?;
    }
    to.flush()?;
    Ok(whole.finish()?.documents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::{Cut, StandIn};

    #[tokio::test]
    async fn only_a_whole_export_bears_its_name() {
        let publisher = StandIn::start().await;
        let (name, id) = (
            "ChannelConfiguration".parse().expect("valid"),
            "a".parse().expect("valid"),
        );
        publisher
            .api()
            .put(&name, &id, br#"{"b":1, "a":2}"#)
            .await
            .expect("written");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("all.ndjson");

        for cut in [Cut::Connection, Cut::EndLine, Cut::Item] {
            publisher.cut(cut);
            let error = to_file(&publisher.api(), &[], &path)
                .await
                .expect_err("cut");
            assert!(!path.exists(), "{cut:?}: {error:#}");
        }
        publisher.cut(Cut::Nothing);
        assert_eq!(
            to_file(&publisher.api(), &[], &path).await.expect("whole"),
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
