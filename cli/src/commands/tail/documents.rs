//! The values of documents before a change, as far as they are known.
//!
//! They are read once and then updated by the changes themselves. A value that may be newer than a
//! change is never used as the value before it.

use std::collections::BTreeMap;

use anyhow::Context;
use client::{Endpoint, documents::StoredDocument};
use contract::{CanonicalJson, CollectionName, DocumentId, EventData, Operation, Revision};

/// The documents that are followed, with the revision at which each was seen.
#[derive(Debug, Default)]
pub(super) struct Documents(
    BTreeMap<(CollectionName, DocumentId), (Revision, Option<CanonicalJson>)>,
);

/// The value before a change.
#[derive(Debug, PartialEq)]
pub(super) enum Before {
    Nothing,
    Value(CanonicalJson),
    Unknown,
}

impl Documents {
    /// Reads documents of a collection: those with these ids, or all.
    pub(super) async fn read(
        &mut self,
        service: &Endpoint,
        name: &CollectionName,
        ids: &[DocumentId],
    ) -> anyhow::Result<()> {
        let mut list = service.list(name).await?;
        while let Some(line) = list.next_document().await? {
            let StoredDocument {
                id,
                revision,
                config_data,
                ..
            } = contract::objects::from_slice(&line).context("a line of the list")?;
            if ids.is_empty() || ids.contains(&id) {
                self.0
                    .insert((name.clone(), id), (revision, Some(config_data)));
            }
        }
        Ok(())
    }

    /// Stores the value of a change, and gives the value before it.
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
    fn a_newer_value_is_never_used_as_the_value_before() {
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
