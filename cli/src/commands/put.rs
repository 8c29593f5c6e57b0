//! `confcast put`: writes one document.

use std::path::PathBuf;

use contract::{CollectionName, DocumentId, Expected};

use super::{outcome::of_write, wait::WaitArgs};
use crate::{author::Author, input, output, target::Target};

/// Create or update a document
///
/// The whole document is replaced, except its member `metadata`, which is merged with the stored
/// one. With --exact the document becomes exactly the file, also if that removes members of
/// `metadata`: that is how an older file is written back.
///
/// A write that --expect refuses prints what is there now, and which change made it. Where no answer came,
/// it may have been written all the same: the exit code is 4.
#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// Collection of the document
    collection: CollectionName,
    /// Id of the document
    id: DocumentId,
    /// File with a JSON object, or - for standard input
    file: PathBuf,
    /// Write only if the document is in this state: any, absent, present, its revision, or its tag
    /// (REVISION-CRC)
    #[arg(
        long,
        value_name = "STATE",
        visible_alias = "if-match",
        default_value = "any"
    )]
    expect: Expected,
    /// Do not merge `metadata`: the document becomes exactly the file
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    wait: WaitArgs,
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
            expect,
            exact,
            wait,
            author,
            target,
        } = self;
        let value = input::object(&file).await?;
        let value = value.as_bytes();
        let publisher = wait.first(author.writing(target.endpoint()?, exact));
        // PUT alone requires a document that exists.
        let written = match expect {
            Expected::Any => publisher.put_or_create(&collection, &id, value).await,
            expected => publisher.put(&collection, &id, value, &expected).await,
        };
        let written = written.map_err(of_write)?;
        output::result(format_args!(
            "{collection}/{id} {} at revision {}",
            if written.changed {
                "is"
            } else {
                "is unchanged"
            },
            written.revision
        ))?;
        wait.follow(&publisher, &collection, written).await
    }
}
