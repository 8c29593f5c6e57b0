//! `confcast put`: writes one document.

use std::path::PathBuf;

use anyhow::Context;
use contract::{CollectionName, DocumentId, Revision};
use tokio::io::AsyncReadExt;

use crate::{
    client::{Condition, Target},
    output,
};

/// Create or update a document
///
/// All of it is replaced, but for its `metadata` member, which is merged with what is there.
#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    collection: CollectionName,
    id: DocumentId,
    /// File with a JSON object, or - for standard input
    file: PathBuf,
    /// Only if the document is at this revision
    #[arg(long, value_name = "REVISION")]
    if_match: Option<Revision>,
    #[command(flatten)]
    target: Target,
}

impl Put {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self {
            collection,
            id,
            file,
            if_match,
            target,
        } = self;
        let mut config = Vec::new();
        super::open(&file)
            .await?
            .read_to_end(&mut config)
            .await
            .with_context(|| format!("cannot read {}", file.display()))?;
        let api = target.api()?;
        let written = match if_match {
            Some(revision) => {
                api.put_if(&collection, &id, &config, Condition::At(revision))
                    .await?
            }
            None => api.put(&collection, &id, &config).await?,
        };
        Ok(output::say(format_args!(
            "{collection}/{id} is at revision {}",
            written.revision
        ))?)
    }
}
