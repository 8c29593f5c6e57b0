//! The answers as people read them.

use comfy_table::Table;
use contract::{Head, Heads};

use super::{Report, asked::Said, fleet};
use crate::output;

impl Report {
    pub(super) fn publisher_table(&self) -> Table {
        let mut table = output::table([
            "publisher",
            "collection",
            "epoch",
            "revision",
            "documents",
            "digest",
        ]);
        match &self.publisher.said {
            Said::Error(error) => _ = table.add_row([&self.publisher.url, error]),
            Said::Answer(Heads { heads }) => {
                for Head {
                    collection,
                    epoch,
                    revision,
                    count,
                    digest,
                    ..
                } in heads
                {
                    table.add_row([
                        self.publisher.url.clone(),
                        collection.to_string(),
                        epoch.to_string(),
                        revision.to_string(),
                        count.to_string(),
                        digest.to_string(),
                    ]);
                }
            }
        }
        table
    }

    /// The replicas; nothing when the publisher did not tell them.
    pub(super) fn replicas_table(&self) -> Option<Table> {
        match &self.fleet {
            Some(asked) => asked
                .answer()
                .map(|fleet| fleet::table(fleet, self.heads())),
            None => Some(self.replica_table()),
        }
    }

    pub(super) fn replica_table(&self) -> Table {
        let mut table = output::table([
            "replica",
            "collection",
            "state",
            "revision/head",
            "documents",
            "digest equal",
            "reason",
        ]);
        for asked in &self.replicas {
            match &asked.said {
                Said::Error(error) => {
                    _ = table.add_row([&asked.url, "", "unreachable", "", "", "", error])
                }
                Said::Answer(replica) => {
                    for row in &replica.collections {
                        let head = self
                            .head(&row.collection)
                            .map_or("?".to_owned(), |head| head.revision.to_string());
                        table.add_row([
                            replica.instance.clone(),
                            row.collection.to_string(),
                            row.state.as_str().to_owned(),
                            format!("{}/{head}", row.revision),
                            row.count.to_string(),
                            yes_or_no(self.agrees(replica, row)),
                            row.reason.clone().unwrap_or_default(),
                        ]);
                    }
                }
            }
        }
        table
    }
}

pub(super) fn yes_or_no(verdict: Option<bool>) -> String {
    verdict
        .map_or("-", |yes| if yes { "yes" } else { "NO" })
        .to_owned()
}
