//! `confcast list`: the documents of a collection, without their values.

use anyhow::Context;
use client::Endpoint;
use contract::{CollectionName, Crc, DocumentId, Revision, history::Point};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::point::AtPoint;
use crate::{output, target::Target};

/// List the documents of a collection, as it is or as it was: id, revision, crc, size in bytes
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Collection to list
    collection: CollectionName,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: AtPoint,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Serialize)]
struct Row {
    id: DocumentId,
    revision: Revision,
    crc: Crc,
    /// Length of `configData` in bytes.
    size: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    id: DocumentId,
    revision: Revision,
    crc: Crc,
    #[serde(borrow)]
    config_data: &'a RawValue,
}

impl List {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let rows = rows(
            &self.target.endpoint()?,
            &self.collection,
            self.at.point().as_ref(),
        )
        .await?;
        if self.json {
            return output::json(&rows);
        }
        let mut table = output::table(["id", "revision", "crc", "size"]);
        for row in &rows {
            table.add_row([
                row.id.to_string(),
                row.revision.to_string(),
                row.crc.to_string(),
                row.size.to_string(),
            ]);
        }
        table.align_right([1, 3]);
        Ok(output::result_table(&table)?)
    }
}

/// Reads the list as it arrives; a list that is not complete is an error.
async fn rows(
    publisher: &Endpoint,
    collection: &CollectionName,
    point: Option<&Point>,
) -> anyhow::Result<Vec<Row>> {
    let mut list = match point {
        None => publisher.list(collection).await?,
        Some(point) => publisher.list_at(collection, point).await?,
    };
    let mut rows = Vec::new();
    while let Some(line) = list.next_document().await? {
        let item: Item<'_> = contract::objects::from_slice(&line).context("a line of the list")?;
        rows.push(Row {
            id: item.id,
            revision: item.revision,
            crc: item.crc,
            size: item.config_data.get().len(),
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_publisher::{Cut, FakePublisher};

    #[tokio::test]
    async fn a_list_is_complete_or_an_error() {
        let publisher = FakePublisher::start().await;
        let endpoint = publisher.endpoint();
        let name = "ChannelConfiguration".parse().expect("valid");
        let id = "a".parse().expect("valid");
        endpoint
            .put_or_create(&name, &id, br#"{ "b": 1 }"#)
            .await
            .expect("written");
        let rows = rows(&endpoint, &name, None).await.expect("a list");
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.id.as_str(), row.revision, row.size), ("a", 1, 7));

        for cut in [Cut::Connection, Cut::EndLine] {
            publisher.cut(cut);
            super::rows(&endpoint, &name, None).await.expect_err("cut");
        }
    }
}
