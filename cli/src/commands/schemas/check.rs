//! `confcast schemas check`: which stored documents a changed schema would refuse, before it is in
//! force.
//!
//! It reads one snapshot, holds one document of it at a time besides the ids that others refer to, and
//! writes nothing. A document that
//! was stored before its schema changed stays stored; it is refused only when a client writes it
//! again, which is too late to find out.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
};

use anyhow::{Context, ensure};
use client::Endpoint;
use contract::{
    CollectionName, DocumentId, Revision,
    references::{Reference, ReferenceRules},
    secrets::{SecretPlaces, is_of_sealing, misplaced, sealed_text, sealed_values},
    snapshot::SnapshotItem,
};
use jsonschema::Validator;
use serde::Serialize;
use serde_json::Value;

use super::source::{self, Contract};
use crate::{commands::differences::place, output, progress::ProgressLine, target::Target};

/// Show which stored documents changed schemas would refuse
///
/// Reads the documents from the publisher and the schemas from files. Also shows references to
/// documents that do not exist (`x-ref`), and secrets that are stored in plain text (`x-secret`),
/// because they were written before their schema had the keyword. The exit code is 0 only if every document passes.
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
    /// Documents that a schema refuses.
    refused: u64,
    /// Documents that refer to one that does not exist.
    dangling: u64,
    /// Documents with a secret in plain text.
    unsealed: u64,
    faults: Vec<Fault>,
    /// Collections with a schema that the publisher does not serve: nothing is stored there.
    unknown: Vec<CollectionName>,
}

/// What is wrong with a document.
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
        ensure!(
            report.unknown.len() < contracts.len(),
            "nothing was checked: the publisher has none of these collections"
        );
        if self.json {
            output::json(&report)?;
        } else {
            report.print()?;
        }
        let Report {
            checked,
            refused,
            dangling,
            unsealed,
            ..
        } = report;
        let mut wrong = Vec::new();
        if refused > 0 {
            wrong.push(format!("{refused} of {checked} documents would be refused"));
        }
        if dangling > 0 {
            wrong.push(format!(
                "{dangling} of {checked} documents refer to documents that do not exist"
            ));
        }
        if unsealed > 0 {
            wrong.push(format!(
                "{unsealed} of {checked} documents have secrets in plain text"
            ));
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
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
            table.add_row([
                collection.as_str(),
                id.as_str(),
                &revision.to_string(),
                place(pointer),
                why,
            ]);
        }
        Ok(output::result_table(&table)?)
    }
}

async fn check(publisher: &Endpoint, contracts: &[Contract]) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let heads = publisher.heads().await?;
    let served: BTreeSet<_> = heads.into_iter().map(|head| head.collection).collect();
    let mut rules = BTreeMap::new();
    for contract in contracts {
        if served.contains(&contract.collection) {
            let checks = Checks {
                validator: contract.validator()?,
                references: contract.references()?,
                secrets: contract.secrets()?,
            };
            rules.insert(contract.collection.clone(), checks);
        } else {
            report.unknown.push(contract.collection.clone());
        }
    }
    // Without a name it would be a snapshot of everything.
    if !rules.is_empty() {
        let progress = ProgressLine::counted();
        let read = report.read(publisher, &served, &rules, &progress).await;
        progress.finish();
        read?;
    }
    Ok(report)
}

/// What the documents of a collection are checked against.
struct Checks {
    validator: Validator,
    references: Option<ReferenceRules>,
    secrets: Option<SecretPlaces>,
}

impl Checks {
    /// Pointers to the secrets of a document that are not sealed.
    fn plain_secrets(&self, document: &Value) -> Vec<String> {
        let places = self.secrets.as_ref();
        let pointers = places.map_or_else(Vec::new, |places| places.of_value(document));
        let is_plain = |pointer: &String| {
            let value = document.pointer(pointer);
            value.is_some_and(|value| sealed_text(value).is_none())
        };
        pointers.into_iter().filter(is_plain).collect()
    }

    /// The references of a document, as the publisher finds them.
    fn references_of(&self, document: &Value) -> Vec<Reference> {
        let rules = self.references.as_ref();
        rules.map_or_else(Vec::new, |it| it.references_by(&self.validator, document))
    }
}

/// The references of a snapshot whose documents were not read yet.
#[derive(Default)]
struct Unresolved {
    /// The collections that are referred to.
    targets: BTreeSet<CollectionName>,
    /// Their documents, as far as they were read.
    existing: HashSet<(CollectionName, DocumentId)>,
    references: Vec<(CollectionName, DocumentId, Revision, Reference)>,
}

impl Report {
    async fn read(
        &mut self,
        publisher: &Endpoint,
        served: &BTreeSet<CollectionName>,
        rules: &BTreeMap<CollectionName, Checks>,
        progress: &ProgressLine,
    ) -> anyhow::Result<()> {
        let referring = rules.values().filter_map(|rules| rules.references.as_ref());
        let targets = referring.flat_map(ReferenceRules::targets);
        let mut unresolved = Unresolved {
            targets: targets.cloned().collect(),
            ..Unresolved::default()
        };
        let read: BTreeSet<_> = rules
            .keys()
            .chain(unresolved.targets.intersection(served))
            .collect();
        let mut snapshot = publisher.snapshot(read).await?.proven();
        progress.announce(snapshot.announced());
        while let Some(record) = snapshot.next_record().await? {
            let item = record.item;
            if unresolved.targets.contains(&item.collection) {
                let key = (item.collection.clone(), item.document.id().clone());
                unresolved.existing.insert(key);
            }
            if let Some(rules) = rules.get(&item.collection) {
                self.check_document(rules, item, &mut unresolved)?;
            }
            progress.document();
        }
        self.resolve(unresolved);
        Ok(())
    }

    fn check_document(
        &mut self,
        rules: &Checks,
        item: SnapshotItem,
        unresolved: &mut Unresolved,
    ) -> anyhow::Result<()> {
        let collection = item.collection;
        let (id, revision) = (item.document.id(), item.document.revision());
        let value = contract::canonical::value(item.document.config_data());
        let document = value.context("a document")?;
        let before = self.faults.len();
        let sealed = sealed_values(&document);
        let faults = rules.validator.iter_errors(&document).filter(|fault| {
            let sealed = sealed.iter().map(|(pointer, _text)| pointer.as_str());
            !is_of_sealing(fault, sealed)
        });
        self.faults.extend(faults.map(|fault| Fault {
            collection: collection.clone(),
            id: id.clone(),
            revision,
            pointer: fault.instance_path().to_string(),
            // The publisher's text, which does not repeat values: they may be large or
            // private.
            why: fault.masked_with("the value").to_string(),
        }));
        let misplaced = misplaced(rules.secrets.as_ref(), &document).into_iter();
        self.faults.extend(misplaced.map(|pointer| Fault {
            collection: collection.clone(),
            id: id.clone(),
            revision,
            pointer,
            why: "is a sealed secret where the schema does not say x-secret".to_owned(),
        }));
        self.checked += 1;
        self.refused += u64::from(self.faults.len() > before);
        let plain = rules.plain_secrets(&document);
        self.unsealed += u64::from(!plain.is_empty());
        self.faults.extend(plain.into_iter().map(|pointer| Fault {
            collection: collection.clone(),
            id: id.clone(),
            revision,
            pointer,
            why: "is a secret in plain text; the next write of the document seals it".to_owned(),
        }));
        let references = rules.references_of(&document).into_iter();
        let unknown = references.filter(|reference| {
            let key = reference.key();
            key.is_none_or(|key| !unresolved.existing.contains(&key))
        });
        let unknown: Vec<_> = unknown.collect();
        let of_document = unknown
            .into_iter()
            .map(|reference| (collection.clone(), id.clone(), revision, reference));
        unresolved.references.extend(of_document);
        Ok(())
    }

    /// Adds the references whose documents are not in the snapshot.
    fn resolve(&mut self, unresolved: Unresolved) {
        let mut dangling = BTreeSet::new();
        for (collection, id, revision, reference) in unresolved.references {
            let key = reference.key();
            if key.is_some_and(|key| unresolved.existing.contains(&key)) {
                continue;
            }
            let to = format!("{}/{}", reference.collection, reference.id);
            let to: String = to.chars().take(200).collect();
            dangling.insert((collection.clone(), id.clone()));
            self.faults.push(Fault {
                collection,
                id,
                revision,
                pointer: reference.pointer,
                why: format!("refers to {to}, which does not exist"),
            });
        }
        self.dangling = dangling.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fake_publisher::{Cut, FakePublisher};

    /// A publisher with these documents of `ChannelConfiguration`.
    async fn publisher_with(documents: &[(&str, &str)]) -> FakePublisher {
        let publisher = FakePublisher::start().await;
        let name = "ChannelConfiguration".parse().expect("valid");
        for (id, document) in documents {
            let id = id.parse().expect("valid");
            let endpoint = publisher.endpoint();
            let written = endpoint.put_or_create(&name, &id, document.as_bytes());
            written.await.expect("written");
        }
        publisher
    }

    /// What is found by a folder with this schema of `ChannelConfiguration`, and its faults in words.
    async fn checked(publisher: &FakePublisher, schema: &str) -> (Report, Vec<String>) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ChannelConfiguration.schema.json");
        fs::write(file, schema).expect("written");
        let contracts = source::folder(folder.path()).expect("schemas");
        let report = check(&publisher.endpoint(), &contracts).await;
        let report = report.expect("checked");
        let faults = report.faults.iter();
        let mut faults: Vec<_> = faults
            .map(|fault| format!("{}{} {}", fault.id, fault.pointer, fault.why))
            .collect();
        faults.sort_unstable();
        (report, faults)
    }

    #[tokio::test]
    async fn each_fault_of_each_document_is_named() {
        let publisher = publisher_with(&[
            ("good", r#"{"n":1}"#),
            ("bad", r#"{"n":"secret","deep":{"m":true}}"#),
        ])
        .await;
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
    #[tokio::test]
    async fn references_without_their_documents_are_named() {
        let publisher = publisher_with(&[
            ("a", r#"{"next":["b","none"],"other":"x"}"#),
            ("b", r#"{"next":"a"}"#),
            ("c", r#"{"next":["no id!"]}"#),
        ])
        .await;
        let schema = r#"{"properties": {"next": {"x-ref": "ChannelConfiguration"}, "other": {"x-ref": "NotServed"}}}"#;
        let (report, faults) = checked(&publisher, schema).await;
        let counts = (report.checked, report.refused, report.dangling);
        assert_eq!(counts, (3, 0, 2));
        assert_eq!(
            faults,
            [
                "a/next/1 refers to ChannelConfiguration/none, which does not exist",
                "a/other refers to NotServed/x, which does not exist",
                "c/next/0 refers to ChannelConfiguration/no id!, which does not exist",
            ]
        );
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ChannelConfiguration.schema.json");
        fs::write(file, r#"{"x-ref": "no name"}"#).expect("written");
        let error = source::folder(folder.path()).expect_err("refused");
        assert!(
            format!("{error:#}").contains("is not the name of a collection"),
            "{error:#}"
        );
    }

    #[tokio::test]
    async fn secrets_in_plain_text_are_named_and_sealed_ones_fit() {
        let publisher = publisher_with(&[
            (
                "sealed",
                r#"{"password":{"$secret":"v1.a.1.b.c.d"},"port":1}"#,
            ),
            ("plain", r#"{"password":"hunter2"}"#),
            (
                "moved",
                r#"{"password":{"$secret":"v1.a.1.b.c.d"},"old":{"$secret":"v1.a.1.b.c.d"}}"#,
            ),
            (
                "bad",
                r#"{"password":{"$secret":"v1.a.1.b.c.d"},"port":"x"}"#,
            ),
        ])
        .await;
        let schema = r#"{"properties": {"password": {"type": "string", "x-secret": true}, "port": {"type": "integer"}}}"#;
        let (report, faults) = checked(&publisher, schema).await;
        let counts = (report.checked, report.refused, report.unsealed);
        assert_eq!(counts, (4, 2, 1));
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with("moved/old is a sealed"))
        );
        assert!(faults.iter().any(|fault| fault.starts_with("bad/port ")));
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with("plain/password is a secret"))
        );
        assert!(!format!("{faults:?}").contains("hunter2"));
    }
}
