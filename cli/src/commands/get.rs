//! `confcast get`: prints one document.

use anyhow::Context;
use contract::{CollectionName, DocumentId, canonical};

use crate::{output, target::Target};

/// Print a document, in the form that `put` reads
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// Collection of the document
    collection: CollectionName,
    /// Id of the document
    id: DocumentId,
    /// Print an object with id, revision, crc and configData
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Get {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let body = publisher.document_bytes(&self.collection, &self.id).await?;
        // Not as a typed document: everything that the publisher sends is shown.
        let document = canonical::value(&body).context("the document is not JSON")?;
        output::json(if self.json {
            &document
        } else {
            &document["configData"]
        })
    }
}
