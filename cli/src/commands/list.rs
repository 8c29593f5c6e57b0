//! `confcast list`: the documents of a collection, without their values.

use anyhow::{Context, ensure};
use comfy_table::CellAlignment;
use contract::{CollectionName, Crc, DocumentId, Revision, snapshot::SnapshotEnd};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    client::{Api, Target, lines},
    output,
};

/// List the documents of a collection: id, revision, crc, size in bytes
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    collection: CollectionName,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Serialize)]
struct Row {
    id: DocumentId,
    revision: Revision,
    crc: Crc,
    size: usize,
}

impl List {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let rows = rows(&self.target.api()?, &self.collection).await?;
        if self.json {
            return output::json(&rows);
        }
        let mut table = output::table(["id", "revision", "crc", "size"]);
        for Row {
            id,
            revision,
            crc,
            size,
        } in &rows
        {
            table.add_row([
                id.to_string(),
                revision.to_string(),
                crc.to_string(),
                size.to_string(),
            ]);
        }
        for numbers in [1, 3] {
            if let Some(column) = table.column_mut(numbers) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Ok(output::say(table)?)
    }
}

/// Reads the list as it comes: a head line, a line per document, an end line.
async fn rows(api: &Api, collection: &CollectionName) -> anyhow::Result<Vec<Row>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Item<'a> {
        id: DocumentId,
        revision: Revision,
        crc: Crc,
        #[serde(borrow)]
        config_data: &'a RawValue,
    }
    let mut lines = lines(
        api.get(&format!("/v1/collections/{collection}/documents"))
            .await?,
    );
    let mut rows = Vec::new();
    lines
        .next_segment()
        .await
        .context("the list broke off")?
        .context("the answer is empty")?;
    while let Some(line) = lines.next_segment().await.context("the list broke off")? {
        if line.starts_with(br#"{"end""#) {
            let SnapshotEnd { count, .. } =
                serde_json::from_slice(&line).context("the end line")?;
            ensure!(
                count == rows.len() as u64,
                "the list has {count} documents, but {} came",
                rows.len()
            );
            return Ok(rows);
        }
        let Item {
            id,
            revision,
            crc,
            config_data,
        } = serde_json::from_slice(&line).context("a line of the list")?;
        rows.push(Row {
            id,
            revision,
            crc,
            size: config_data.get().len(),
        });
    }
    anyhow::bail!("the list is cut off after {} documents", rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::{Cut, StandIn};

    #[tokio::test]
    async fn a_list_is_whole_or_an_error() {
        let publisher = StandIn::start().await;
        let (api, name) = (
            publisher.api(),
            "ChannelConfiguration".parse().expect("valid"),
        );
        api.put(&name, &"a".parse().expect("valid"), br#"{ "b": 1 }"#)
            .await
            .expect("written");
        let rows = rows(&api, &name).await.expect("a list");
        let [
            Row {
                id, revision, size, ..
            },
        ] = &rows[..]
        else {
            panic!("{rows:?}")
        };
        assert_eq!((id.as_str(), *revision, *size), ("a", 1, 7));

        for cut in [Cut::Connection, Cut::EndLine] {
            publisher.cut(cut);
            super::rows(&api, &name).await.expect_err("cut");
        }
    }
}
