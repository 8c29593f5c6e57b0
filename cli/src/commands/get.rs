//! `confcast get`: prints one document, as it is or as it was.

use anyhow::Context;
use contract::{CollectionName, DocumentId, canonical};

use super::point::AtPoint;
use crate::{output, target::Target};

/// Print a document, in the form that `put` reads, as it is or as it was
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
    at: AtPoint,
    #[command(flatten)]
    target: Target,
}

impl Get {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let publisher = self.target.endpoint()?;
        let (collection, id) = (&self.collection, &self.id);
        let body = match self.at.point() {
            None => publisher.document_bytes(collection, id).await?,
            Some(point) => publisher.document_bytes_at(collection, id, &point).await?,
        };
        // Not as a typed document: everything that the publisher sends is shown.
        let document = canonical::value(&body).context("the document is not JSON")?;
        output::json(if self.json {
            &document
        } else {
            &document["configData"]
        })
    }
}
