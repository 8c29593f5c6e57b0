//! `confcast delete`: deletes one document.

use contract::{CollectionName, DocumentId, Expected, Revision};

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
        let expected = if_match.map_or(Expected::Any, Expected::revision);
        let written = author
            .writing(target.endpoint()?, false)
            .delete(&collection, &id, &expected)
            .await?;
        Ok(output::result(format_args!(
            "{collection}/{id} was deleted by revision {}",
            written.revision
        ))?)
    }
}
