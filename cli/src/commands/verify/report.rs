//! The result of the comparison, for people and programs.

use client::Endpoint;
use contract::CollectionName;
use serde::Serialize;

use super::row::{DocumentDifference, Position, Row, RowVerdict};
use crate::output;

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

/// The result for a replica.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// It was read, and these are its collections.
    Collections(Vec<Row>),
    /// It could not be read.
    Error(String),
    /// It was not read, and why.
    Skipped(&'static str),
}

impl Compared {
    fn failures(&self) -> Vec<String> {
        let replica = &self.replica;
        match &self.outcome {
            Outcome::Skipped(_) => vec![],
            Outcome::Error(error) => vec![format!("{replica}: {error}")],
            Outcome::Collections(rows) => rows
                .iter()
                .filter(|row| row.verdict != RowVerdict::Equal)
                .map(|row| {
                    let verdict = row.verdict.as_str();
                    format!("{} of {replica} is {verdict}", row.collection)
                })
                .collect(),
        }
    }
}

impl Report {
    pub(super) fn new(publisher: &Endpoint, replicas: Vec<Compared>) -> Self {
        Self {
            publisher: publisher.base().to_owned(),
            replicas,
        }
    }

    /// Why the replicas are not proven equal to the publisher; empty when they are.
    pub(super) fn failures(&self) -> Vec<String> {
        if self
            .replicas
            .iter()
            .all(|compared| matches!(compared.outcome, Outcome::Skipped(_)))
        {
            return vec!["there is no replica to compare; name one with --subscriber".to_owned()];
        }
        self.replicas.iter().flat_map(Compared::failures).collect()
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        let mut table = output::wrapping_table([
            "replica",
            "collection",
            "verdict",
            "revision",
            "publisher revision",
            "documents",
            "differences",
        ]);
        for Compared {
            replica, outcome, ..
        } in &self.replicas
        {
            match outcome {
                Outcome::Skipped(reason) => table.add_row([replica, "", "skipped", reason]),
                Outcome::Error(_) => table.add_row([replica, "", "unproven"]),
                Outcome::Collections(rows) => {
                    for row in rows {
                        table.add_row([
                            replica.clone(),
                            row.collection.to_string(),
                            row.verdict.as_str().to_owned(),
                            row.replica.to_string(),
                            row.publisher
                                .as_ref()
                                .map_or("-".to_owned(), Position::to_string),
                            row.documents.to_string(),
                            row.differences.to_string(),
                        ]);
                    }
                }
            }
        }
        output::result_table(&table)?;
        self.print_differences()
    }

    fn print_differences(&self) -> anyhow::Result<()> {
        let mut table = output::wrapping_table([
            "replica",
            "collection",
            "id",
            "difference",
            "replica has",
            "publisher has",
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
            output::result_table(&table)?;
        }
        unlisted.iter().try_for_each(output::result)?;
        Ok(())
    }
}

fn cells(
    replica: &str,
    collection: &CollectionName,
    difference: &DocumentDifference,
) -> [String; 6] {
    let DocumentDifference {
        id,
        kind,
        publisher,
        replica: actual,
    } = difference;
    let stamp = |stamp: &Option<_>| stamp.as_ref().map_or("-".to_owned(), ToString::to_string);
    [
        replica.to_owned(),
        collection.to_string(),
        id.to_string(),
        kind.as_str().to_owned(),
        stamp(actual),
        stamp(publisher),
    ]
}
