//! What documents were before a change, as far as that is known.
//!
//! It is read once and then follows the changes themselves; a value that may be newer than the
//! change is never taken for the one before it.

use std::collections::BTreeMap;

use anyhow::Context;
use contract::{CanonicalJson, CollectionName, DocumentId, EventData, Operation, Revision};
use serde::Deserialize;

use crate::client::{Api, lines};

/// The documents that are followed, by the revision they were seen at.
#[derive(Debug, Default)]
pub(super) struct Documents(
    BTreeMap<(CollectionName, DocumentId), (Revision, Option<CanonicalJson>)>,
);

/// What was there before a change.
#[derive(Debug, PartialEq)]
pub(super) enum Before {
    Nothing,
    Value(CanonicalJson),
    Unknown,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    id: DocumentId,
    revision: Revision,
    config_data: CanonicalJson,
}

impl Documents {
    /// Reads the documents of a collection, these or all.
    pub(super) async fn read(
        &mut self,
        api: &Api,
        name: &CollectionName,
        ids: &[DocumentId],
    ) -> anyhow::Result<()> {
        let mut lines = lines(
            api.get(&format!("/v1/collections/{name}/documents"))
                .await?,
        );
        while let Some(line) = lines.next_segment().await.context("the list broke off")? {
            if line.starts_with(br#"{"head""#) || line.starts_with(br#"{"end""#) {
                continue;
            }
            let Item {
                id,
                revision,
                config_data,
            } = serde_json::from_slice(&line).context("a line of the list")?;
            if ids.is_empty() || ids.contains(&id) {
                self.0
                    .insert((name.clone(), id), (revision, Some(config_data)));
            }
        }
        Ok(())
    }

    /// Takes over a change, and gives what was there before it.
    pub(super) fn replace(&mut self, data: &EventData) -> Before {
        let revision = data.revision.unwrap_or_default();
        let key = (data.collection.clone(), data.id.clone());
        let before = self.0.insert(key, (revision, data.config_data.clone()));
        match before {
            _ if data.op == Operation::Create => Before::Nothing,
            Some((at, value)) if at < revision => value.map_or(Before::Nothing, Before::Value),
            _ => Before::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(op: &str, revision: Revision, value: Option<&str>) -> EventData {
        let value = value.map_or("null".to_owned(), str::to_owned);
        let text = format!(
            r#"{{"collection":"A","op":"{op}","id":"x","revision":{revision},"configData":{value}}}"#
        );
        serde_json::from_str(&text).expect("the data of an event")
    }

    #[test]
    fn a_newer_value_is_never_taken_for_the_one_before() {
        let value = |text: &str| CanonicalJson::parse(text.as_bytes()).expect("json");
        let mut documents = Documents::default();
        let key = ("A".parse().expect("a name"), "x".parse().expect("an id"));
        documents.0.insert(key, (5, Some(value("5"))));
        assert_eq!(
            documents.replace(&change("Update", 4, Some("4"))),
            Before::Unknown
        );
        assert_eq!(
            documents.replace(&change("Update", 5, Some("5"))),
            Before::Value(value("4"))
        );
        assert_eq!(
            documents.replace(&change("Delete", 7, None)),
            Before::Value(value("5"))
        );
        assert_eq!(
            documents.replace(&change("Create", 8, Some("8"))),
            Before::Nothing
        );
        assert_eq!(
            documents.replace(&change("Delete", 9, None)),
            Before::Value(value("8"))
        );
    }
}
