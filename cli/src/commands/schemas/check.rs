//! `confcast schemas check`: which stored documents a changed schema would refuse, before it is in
//! force.
//!
//! It reads one snapshot, holds one document of it at a time, and writes nothing. A document that
//! was stored before its schema changed stays stored; it is refused only when a client writes it
//! again, which is too late to find out.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, ensure};
use client::Endpoint;
use contract::{CollectionName, DocumentId, Revision, snapshot::SnapshotItem};
use jsonschema::Validator;
use serde::Serialize;

use super::source::{self, Contract};
use crate::{output, progress::ProgressLine, target::Target};

/// Show which stored documents changed schemas would refuse
///
/// Reads the documents from the publisher and the schemas from files. The exit code is 0 only if
/// every document passes.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Schemas, each named COLLECTION.schema.json
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Folder of schemas
    #[arg(
        long,
        value_name = "DIR",
        default_value = "schemas",
        conflicts_with = "files"
    )]
    dir: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    /// Documents that were read.
    checked: u64,
    /// Documents that have a fault.
    refused: u64,
    faults: Vec<Fault>,
    /// Collections with a schema that the publisher does not serve: nothing is stored there.
    unknown: Vec<CollectionName>,
}

/// Why a document would be refused.
#[derive(Debug, Serialize)]
struct Fault {
    collection: CollectionName,
    id: DocumentId,
    revision: Revision,
    /// JSON pointer to the value at fault.
    pointer: String,
    why: String,
}

impl Check {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let contracts = if self.files.is_empty() {
            source::folder(&self.dir)?
        } else {
            source::files(&self.files)?
        };
        ensure!(
            !contracts.is_empty(),
            "there are no schemas in {}",
            self.dir.display()
        );
        let report = check(&self.target.endpoint()?, &contracts).await?;
        for collection in &report.unknown {
            output::note(format_args!("the publisher has no collection {collection}"));
        }
        if self.json {
            output::json(&report)?;
        } else {
            report.print()?;
        }
        let Report {
            checked, refused, ..
        } = report;
        ensure!(
            refused == 0,
            "{refused} of {checked} documents would be refused"
        );
        Ok(())
    }
}

impl Report {
    fn print(&self) -> anyhow::Result<()> {
        if self.faults.is_empty() {
            return Ok(output::result(format_args!(
                "all {} documents pass",
                self.checked
            ))?);
        }
        let mut table = output::table(["collection", "id", "revision", "at", "why"]);
        for Fault {
            collection,
            id,
            revision,
            pointer,
            why,
        } in &self.faults
        {
            // The pointer to the whole document is empty.
            let at = if pointer.is_empty() {
                "(document)"
            } else {
                pointer
            };
            table.add_row([
                collection.as_str(),
                id.as_str(),
                &revision.to_string(),
                at,
                why,
            ]);
        }
        Ok(output::result_table(&table)?)
    }
}

async fn check(publisher: &Endpoint, contracts: &[Contract]) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let heads = publisher.heads().await?;
    let served: Vec<_> = heads.into_iter().map(|head| head.collection).collect();
    let mut validators = BTreeMap::new();
    for contract in contracts {
        if served.contains(&contract.collection) {
            validators.insert(contract.collection.clone(), contract.validator()?);
        } else {
            report.unknown.push(contract.collection.clone());
        }
    }
    // Without a name it would be a snapshot of everything.
    if !validators.is_empty() {
        let progress = ProgressLine::documents();
        let read = report.read(publisher, &validators, &progress).await;
        progress.finish();
        read?;
    }
    Ok(report)
}

impl Report {
    async fn read(
        &mut self,
        publisher: &Endpoint,
        validators: &BTreeMap<CollectionName, Validator>,
        progress: &ProgressLine,
    ) -> anyhow::Result<()> {
        let mut snapshot = publisher.snapshot(validators.keys()).await?.proven();
        progress.announce(snapshot.announced());
        while let Some(record) = snapshot.next_record().await? {
            if let Some(validator) = validators.get(&record.item.collection) {
                self.validate(validator, record.item)?;
            }
            progress.document();
        }
        Ok(())
    }

    fn validate(&mut self, validator: &Validator, item: SnapshotItem) -> anyhow::Result<()> {
        let SnapshotItem {
            collection,
            id,
            revision,
            config_data,
            ..
        } = item;
        let document = config_data.to_value().context("a document")?;
        let before = self.faults.len();
        self.faults
            .extend(validator.iter_errors(&document).map(|fault| Fault {
                collection: collection.clone(),
                id: id.clone(),
                revision,
                pointer: fault.instance_path().to_string(),
                // The publisher's text, which does not repeat values: they may be large or
                // private.
                why: fault.masked_with("the value").to_string(),
            }));
        self.checked += 1;
        self.refused += u64::from(self.faults.len() > before);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fake_publisher::{Cut, FakePublisher};

    #[tokio::test]
    async fn each_fault_of_each_document_is_named() {
        let publisher = FakePublisher::start().await;
        let name = "ChannelConfiguration".parse().expect("valid");
        for (id, document) in [
            ("good", r#"{"n":1}"#),
            ("bad", r#"{"n":"secret","deep":{"m":true}}"#),
        ] {
            let id = id.parse().expect("valid");
            publisher
                .endpoint()
                .put_or_create(&name, &id, document.as_bytes())
                .await
                .expect("written");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let schema = r#"{"properties": {"n": {"type": "integer"}, "deep": {"properties": {"m": {"type": "string"}}}}}"#;
        for collection in ["ChannelConfiguration", "NotServed"] {
            fs::write(
                folder.path().join(format!("{collection}.schema.json")),
                schema,
            )
            .expect("written");
        }
        let contracts = source::folder(folder.path()).expect("schemas");

        let report = check(&publisher.endpoint(), &contracts)
            .await
            .expect("checked");
        assert_eq!(
            (report.checked, report.refused, report.unknown.len()),
            (2, 1, 1)
        );
        let mut faults: Vec<_> = report
            .faults
            .iter()
            .map(|fault| (fault.id.as_str(), fault.pointer.as_str()))
            .collect();
        faults.sort_unstable();
        assert_eq!(faults, [("bad", "/deep/m"), ("bad", "/n")]);
        assert!(
            report
                .faults
                .iter()
                .all(|fault| !fault.why.contains("secret")),
            "{report:?}"
        );

        for cut in [Cut::Connection, Cut::EndLine, Cut::Item] {
            publisher.cut(cut);
            check(&publisher.endpoint(), &contracts)
                .await
                .expect_err("a snapshot that is cut off proves nothing");
        }
    }
}
