//! `confcast diff`: what is different between two states of documents. It reads both and writes
//! nothing.

mod operand;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};
use client::{ClientError, Endpoint, documents::StoredDocument};
use contract::{
    CollectionName, DocumentId, ProblemKind, Revision, SecretUrl,
    history::{Difference, Point, difference},
};
use serde::Serialize;

use self::operand::Operand;
use super::differences;
use crate::{
    output::{self, CannotCompare},
    target::{Target, Unshown, service_url},
};

/// Show what is different between two states of a document, a collection or all collections
///
/// A state is `[COLLECTION[/ID]][@POINT]`. The point is a revision of the collection (@41), a time
/// (@2026-11-28T09:00:00Z, @2026-11-28, @15m, '@2h 30m ago'), a named snapshot (@snapshot:NAME) or the
/// present (@now), which is also meant where there is none.
///
/// B may leave out what it has in common with A (`diff ChannelConfiguration/whatsapp-es@41 @44`), and
/// without B the other state is the present (`diff ChannelConfiguration@2h`). With --other the state B
/// is read from another publisher (`diff ChannelConfiguration --other http://b:8080`). Without a
/// collection all are compared (`diff @snapshot:monday`).
///
/// A line is printed for each different document, and one for each place in it: a JSON pointer, the
/// value in A and the value in B. --json prints one line of JSON for each different document:
/// `collection`, `id`, `a` and `b` (revisions; absent where the document does not exist), `diff`,
/// `diffTruncated`. Equal values are equal, whatever their revisions.
///
/// The exit code is 0 if nothing is different, 1 if something is, 2 if the states cannot be compared.
#[derive(Debug, clap::Args)]
#[command(allow_hyphen_values = true)]
pub(crate) struct DiffCommand {
    /// The first state: `[COLLECTION[/ID]][@POINT]`; all collections in the present when it is not given,
    /// which takes --other
    #[arg(default_value = "@now", hide_default_value = true)]
    a: Operand,
    /// The second state; A in the present when it is not given
    b: Option<Operand>,
    /// Base URL of the publisher of B
    #[arg(long, value_name = "URL", value_parser = Unshown(service_url))]
    other: Option<SecretUrl>,
    /// Print one line of JSON for each different document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// A document that is different.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Different {
    collection: CollectionName,
    id: DocumentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<Revision>,
    diff: Vec<Difference>,
    diff_truncated: bool,
}

impl DiffCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // A script tells an error from a difference by the exit code.
        let different = self.compare().await.context(CannotCompare)?;
        if different == 0 {
            return Ok(());
        }
        let documents = if different == 1 {
            "1 document is".to_owned()
        } else {
            format!("{different} documents are")
        };
        bail!("{documents} different")
    }

    /// Prints what is different, and gives the number of documents.
    async fn compare(self) -> anyhow::Result<usize> {
        let a_service = self.target.endpoint()?;
        let b_service = match &self.other {
            Some(url) => a_service.beside(url.expose())?,
            None => a_service.clone(),
        };
        let b = self.b.unwrap_or_default().completed_by(&self.a);
        ensure!(
            self.other.is_some() || self.a != b,
            "A and B are the same state: give a point (COLLECTION/ID@41), two states, or --other"
        );
        ensure!(
            (&self.a.collection, &self.a.id) == (&b.collection, &b.id),
            "A and B are of different documents or collections"
        );
        let is_revision =
            |operand: &Operand| matches!(operand.point, Some(Point::Revision(_revision)));
        ensure!(
            self.a.collection.is_some() || !(is_revision(&self.a) || is_revision(&b)),
            "a revision belongs to one collection: give COLLECTION@REVISION"
        );
        let mut different = 0;
        for collection in collections(&a_service, &b_service, &self.a).await? {
            let a = read(&a_service, &collection, &self.a).await?;
            let b = read(&b_service, &collection, &b).await?;
            if let Some(id) = &self.a.id {
                ensure!(
                    !(a.is_empty() && b.is_empty()),
                    "neither A nor B has {collection}/{id}: is the id right?"
                );
            }
            for document in differences_of(&collection, &a, &b) {
                different += 1;
                print(&document, self.json)?;
            }
        }
        Ok(different)
    }
}

/// The collections to compare: the named one, or all of both services.
async fn collections(
    a: &Endpoint,
    b: &Endpoint,
    operand: &Operand,
) -> anyhow::Result<BTreeSet<CollectionName>> {
    if let Some(collection) = &operand.collection {
        return Ok([collection.clone()].into());
    }
    let mut names = BTreeSet::new();
    for service in [a, b] {
        let heads = service.heads().await?;
        names.extend(heads.into_iter().map(|head| head.collection));
    }
    Ok(names)
}

/// Documents by id.
pub(super) type Documents = BTreeMap<DocumentId, StoredDocument>;

async fn read(
    service: &Endpoint,
    collection: &CollectionName,
    operand: &Operand,
) -> anyhow::Result<Documents> {
    let point = operand.point.as_ref();
    let documents = match &operand.id {
        Some(id) => document(service, collection, id, point).await,
        None => documents(service, collection, point).await,
    };
    match documents {
        // One of two services may lack a collection that the other one has.
        Err(error) if operand.collection.is_none() && is_unknown(&error) => Ok(Documents::new()),
        documents => documents.with_context(|| format!("{collection} at {}", service.base())),
    }
}

fn is_unknown(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ClientError>()
        .is_some_and(|error| error.kind() == Some(ProblemKind::UnknownCollection))
}

async fn document(
    service: &Endpoint,
    collection: &CollectionName,
    id: &DocumentId,
    point: Option<&Point>,
) -> anyhow::Result<Documents> {
    let document = match point {
        None => service.document(collection, id).await,
        Some(point) => service.document_at(collection, id, point).await,
    };
    match document {
        Ok(document) => Ok([(document.id.clone(), document)].into()),
        Err(error) if error.is_no_document() => Ok(Documents::new()),
        Err(error) => Err(error.into()),
    }
}

/// All documents of a collection, of the present or as they were.
pub(super) async fn documents(
    service: &Endpoint,
    collection: &CollectionName,
    point: Option<&Point>,
) -> anyhow::Result<Documents> {
    let mut list = match point {
        None => service.list(collection).await?,
        Some(point) => service.list_at(collection, point).await?,
    };
    let mut documents = Documents::new();
    while let Some(line) = list.next_document().await? {
        let document: StoredDocument =
            contract::objects::from_slice(&line).context("a line of the list")?;
        documents.insert(document.id.clone(), document);
    }
    Ok(documents)
}

/// The documents with another value, by id. A revision alone is no difference: another publisher
/// has others, and a rollback gives an old value a new one.
fn differences_of<'a>(
    collection: &'a CollectionName,
    a: &'a Documents,
    b: &'a Documents,
) -> impl Iterator<Item = Different> + 'a {
    changed_ids(a, b).map(move |id| {
        let (a, b) = (a.get(id), b.get(id));
        let value = |document: Option<&'a StoredDocument>| document.map(|it| &it.config_data);
        let found = difference(value(a), value(b));
        Different {
            collection: collection.clone(),
            id: id.clone(),
            a: a.map(|document| document.revision),
            b: b.map(|document| document.revision),
            diff: found.differences,
            diff_truncated: found.truncated,
        }
    })
}

/// The ids of the documents with another value, in their order.
pub(super) fn changed_ids<'a>(
    a: &'a Documents,
    b: &'a Documents,
) -> impl Iterator<Item = &'a DocumentId> {
    let ids: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let value = |documents: &'a Documents, id: &DocumentId| {
        documents.get(id).map(|document| &document.config_data)
    };
    ids.into_iter()
        .filter(move |id| value(a, id) != value(b, id))
}

fn print(document: &Different, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(output::result(serde_json::to_string(document)?)?);
    }
    let what = match (document.a, document.b) {
        (None, Some(revision)) => format!("only in B, at revision {revision}"),
        (Some(revision), None) => format!("only in A, at revision {revision}"),
        (a, b) => {
            let [a, b] = [a, b].map(Option::unwrap_or_default);
            format!("revision {a} in A, revision {b} in B")
        }
    };
    output::result(format_args!(
        "{}/{}: {what}",
        document.collection, document.id
    ))?;
    for line in differences::lines(&document.diff, document.diff_truncated) {
        output::result(format_args!("    {line}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(lines: &[&str]) -> Documents {
        let documents = lines.iter().map(|line| {
            let document: StoredDocument = serde_json::from_str(line).expect(line);
            (document.id.clone(), document)
        });
        documents.collect()
    }

    #[tokio::test]
    async fn the_present_is_not_taken_for_the_past() {
        let publisher = crate::fake_publisher::FakePublisher::start().await;
        let service = publisher.endpoint();
        let name = crate::fake_publisher::collection();
        assert!(super::documents(&service, &name, None).await.is_ok());
        // The fake publisher ignores the point, as a service would that does not know it.
        let point = Point::Revision(1);
        let error = super::documents(&service, &name, Some(&point)).await;
        let error = error.expect_err("the present").to_string();
        assert!(error.contains("it has no Confcast-Digest"), "{error}");
    }

    #[test]
    fn a_document_is_different_by_its_value_and_not_by_its_revision() {
        let a = documents(&[
            r#"{"id":"same","revision":1,"crc":"00000000","configData":{"a":1}}"#,
            r#"{"id":"changed","revision":2,"crc":"00000000","configData":{"a":1}}"#,
            r#"{"id":"deleted","revision":3,"crc":"00000000","configData":{"a":1}}"#,
        ]);
        let b = documents(&[
            r#"{"id":"same","revision":9,"crc":"00000000","configData":{"a":1}}"#,
            r#"{"id":"changed","revision":5,"crc":"00000000","configData":{"a":2}}"#,
            r#"{"id":"created","revision":4,"crc":"00000000","configData":{"a":1}}"#,
        ]);
        let name = "A".parse().expect("a name");
        let found: Vec<_> = differences_of(&name, &a, &b)
            .map(|each| (each.id.to_string(), each.a, each.b, each.diff.len()))
            .collect();
        let expected = [
            ("changed", Some(2), Some(5), 1),
            ("created", None, Some(4), 1),
            ("deleted", Some(3), None, 1),
        ];
        assert_eq!(
            found,
            expected.map(|(id, a, b, number)| (id.to_owned(), a, b, number))
        );
        assert_eq!(differences_of(&name, &a, &a).count(), 0);
    }
}
