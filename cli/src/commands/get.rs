//! `confcast get`: one document.

use anyhow::Context;
use contract::{CollectionName, DocumentId};
use serde_json::Value;

use crate::{
    client::{Target, document},
    output,
};

/// Print a document, in the form that `put` takes
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    collection: CollectionName,
    id: DocumentId,
    /// Print it with id, revision and crc around it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Get {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let answer = self
            .target
            .api()?
            .get(&document(&self.collection, &self.id))
            .await?;
        let document: Value = answer.json().await.context("the document")?;
        output::json(if self.json {
            &document
        } else {
            &document["configData"]
        })
    }
}
