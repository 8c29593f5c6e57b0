//! `confcast put`: writes one document.

use std::path::PathBuf;

use contract::{CollectionName, DocumentId, Expected, Revision};

use crate::{author::Author, input, output, target::Target};

/// Create or update a document
///
/// The whole document is replaced, except its member `metadata`, which is merged with the stored
/// one. With --exact the document becomes exactly the file, also if that removes members of
/// `metadata`: that is how an older file is written back.
#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// Collection of the document
    collection: CollectionName,
    /// Id of the document
    id: DocumentId,
    /// File with a JSON object, or - for standard input
    file: PathBuf,
    /// Write only if the document is at this revision
    #[arg(long, value_name = "REVISION")]
    if_match: Option<Revision>,
    /// Do not merge `metadata`: the document becomes exactly the file
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    author: Author,
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
            exact,
            author,
            target,
        } = self;
        let value = input::object(&file).await?;
        let value = value.as_bytes();
        let publisher = author.writing(target.endpoint()?, exact);
        let written = match if_match {
            Some(revision) => {
                let expected = Expected::revision(revision);
                publisher.put(&collection, &id, value, &expected).await?
            }
            None => publisher.put_or_create(&collection, &id, value).await?,
        };
        Ok(output::result(format_args!(
            "{collection}/{id} {} at revision {}",
            if written.changed {
                "is"
            } else {
                "is unchanged"
            },
            written.revision
        ))?)
    }
}
