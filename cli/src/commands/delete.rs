//! `confcast delete`: removes one document.

use contract::{CollectionName, DocumentId, Revision};

use crate::{
    client::{Condition, Target},
    output,
};

/// Delete a document
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    collection: CollectionName,
    id: DocumentId,
    /// Only if the document is at this revision
    #[arg(long, value_name = "REVISION")]
    if_match: Option<Revision>,
    #[command(flatten)]
    target: Target,
}

impl Delete {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self {
            collection,
            id,
            if_match,
            target,
        } = self;
        let condition = if_match.map_or(Condition::Present, Condition::At);
        let written = target.api()?.delete(&collection, &id, condition).await?;
        Ok(output::say(format_args!(
            "{collection}/{id} was deleted by revision {}",
            written.revision
        ))?)
    }
}
