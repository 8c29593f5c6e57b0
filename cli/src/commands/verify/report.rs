//! What the comparison came to, for people and programs.

use contract::CollectionName;
use serde::Serialize;

use super::row::{Difference, Place, Row, Verdict};
use crate::{client::Api, output};

/// All replicas, compared or not.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    publisher: String,
    replicas: Vec<Compared>,
}

/// One replica.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    /// Its name, or its URL when that is all that is known.
    pub(super) replica: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

/// What came of a replica.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// It was read, and these are its collections.
    Collections(Vec<Row>),
    /// It could not be read.
    Error(String),
    /// There was no reason to read it, or no way.
    Skipped(&'static str),
}

impl Report {
    pub(super) fn new(publisher: &Api, replicas: Vec<Compared>) -> Self {
        Self {
            publisher: publisher.base().to_owned(),
            replicas,
        }
    }

    /// What keeps the replicas from being equal to the publisher.
    pub(super) fn wrong(&self) -> Vec<String> {
        if self
            .replicas
            .iter()
            .all(|compared| matches!(compared.outcome, Outcome::Skipped(_)))
        {
            return vec!["there is none to compare; name one with --subscriber".to_owned()];
        }
        let of = |Compared {
                      replica, outcome, ..
                  }: &Compared| match outcome {
            Outcome::Skipped(_) => vec![],
            Outcome::Error(error) => vec![format!("{replica}: {error}")],
            Outcome::Collections(rows) => (rows.iter())
                .filter(|row| row.verdict != Verdict::Equal)
                .map(|row| {
                    format!(
                        "{} of {replica} is {}",
                        row.collection,
                        row.verdict.as_str()
                    )
                })
                .collect(),
        };
        self.replicas.iter().flat_map(of).collect()
    }

    pub(super) fn show(&self) -> anyhow::Result<()> {
        let mut table = output::table([
            "replica",
            "collection",
            "verdict",
            "at",
            "publisher at",
            "documents",
            "differences",
        ]);
        for Compared {
            replica, outcome, ..
        } in &self.replicas
        {
            match outcome {
                Outcome::Skipped(why) => _ = table.add_row([replica, "", "skipped", why]),
                Outcome::Error(_) => _ = table.add_row([replica, "", "unproven"]),
                Outcome::Collections(rows) => {
                    for row in rows {
                        table.add_row([
                            replica.clone(),
                            row.collection.to_string(),
                            row.verdict.as_str().to_owned(),
                            row.replica.to_string(),
                            row.publisher
                                .as_ref()
                                .map_or("-".to_owned(), Place::to_string),
                            row.documents.to_string(),
                            row.differences.to_string(),
                        ]);
                    }
                }
            }
        }
        output::say(table)?;
        self.show_differences()
    }

    fn show_differences(&self) -> anyhow::Result<()> {
        let mut table = output::table([
            "replica",
            "collection",
            "id",
            "difference",
            "there",
            "at the publisher",
        ]);
        let mut unlisted = Vec::new();
        for Compared {
            replica, outcome, ..
        } in &self.replicas
        {
            let Outcome::Collections(rows) = outcome else {
                continue;
            };
            for Row {
                collection,
                differences,
                first,
                ..
            } in rows
            {
                for difference in first {
                    table.add_row(cells(replica, collection, difference));
                }
                if *differences > first.len() {
                    unlisted.push(format!(
                        "{collection} of {replica}: {} more",
                        differences - first.len()
                    ));
                }
            }
        }
        if !table.is_empty() {
            output::say(table)?;
        }
        unlisted.iter().try_for_each(output::say)?;
        Ok(())
    }
}

fn cells(replica: &str, collection: &CollectionName, difference: &Difference) -> [String; 6] {
    let Difference {
        id,
        kind,
        publisher,
        replica: held,
    } = difference;
    let stamp = |stamp: &Option<_>| stamp.as_ref().map_or("-".to_owned(), ToString::to_string);
    [
        replica.to_owned(),
        collection.to_string(),
        id.to_string(),
        kind.as_str().to_owned(),
        stamp(held),
        stamp(publisher),
    ]
}
