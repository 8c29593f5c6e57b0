//! `confcast delete`: deletes one document.

use contract::{CollectionName, DocumentId, Expected};

use super::{outcome::of_write, wait::WaitArgs};
use crate::{author::Author, output, target::Target};

/// Delete a document
///
/// Where no answer came, it may have been deleted all the same: the exit code is 4.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Collection of the document
    collection: CollectionName,
    /// Id of the document
    id: DocumentId,
    /// Delete only if the document is in this state: any, present, its revision, or its tag
    /// (REVISION-CRC)
    #[arg(
        long,
        value_name = "STATE",
        visible_alias = "if-match",
        default_value = "any"
    )]
    expect: Expected,
    #[command(flatten)]
    wait: WaitArgs,
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
            expect,
            wait,
            author,
            target,
        } = self;
        let publisher = wait.first(author.writing(target.endpoint()?, false));
        let written = publisher.delete(&collection, &id, &expect).await;
        let written = written.map_err(of_write)?;
        output::result(format_args!(
            "{collection}/{id} was deleted by revision {}",
            written.revision
        ))?;
        wait.follow(&publisher, &collection, written).await
    }
}
