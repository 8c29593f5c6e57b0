//! `confcast delete`: deletes one document.

use client::documents::Condition;
use contract::{CollectionName, DocumentId, Revision};

use crate::{author::Author, output, target::Target};

/// Delete a document
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Collection of the document
    collection: CollectionName,
    /// Id of the document
    id: DocumentId,
    /// Delete only if the document is at this revision
    #[arg(long, value_name = "REVISION")]
    if_match: Option<Revision>,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    target: Target,
}

impl Delete {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self {
            collection,
            id,
            if_match,
            author,
            target,
        } = self;
        let condition = if_match.map_or(Condition::Present, Condition::At);
        let written = author
            .writing(target.endpoint()?, false)
            .delete(&collection, &id, condition)
            .await?;
        Ok(output::result(format_args!(
            "{collection}/{id} was deleted by revision {}",
            written.revision
        ))?)
    }
}
