//! What an application publishes, as a write: an event of the source document (requirement A10), or a
//! document by its id.
//!
//! The publisher of the collection checks the value and decides. Nothing is sent to subscribers from
//! here: they receive the change when the replica has it.

use std::collections::HashMap;

use contract::{CanonicalJson, CollectionName, DocumentId, JsonError, Operation};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tonic::Status;

use crate::status::{invalid, shortened};

/// The metadata of the call that names a document: the data is its value.
const ID: &str = "id";
/// The metadata by which a sidecar makes no event of the data.
const RAW_PAYLOAD: &str = "rawPayload";

/// What is to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// The document.
    pub(super) id: DocumentId,
    /// Its new value; `None` deletes it.
    pub(super) value: Option<CanonicalJson>,
}

/// The envelope, of which the data alone counts: the topic and the pub/sub name are those of the call.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<&'a RawValue>,
}

/// An event of the source document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceEvent<'a> {
    collection: Option<Value>,
    op: Option<Value>,
    id: Option<Value>,
    #[serde(borrow)]
    config_data: Option<&'a RawValue>,
}

impl Write {
    /// Reads a message that was published to the topic of a collection.
    ///
    /// # Errors
    /// Which field is wrong, and the remedy.
    pub(super) fn read(
        collection: &CollectionName,
        message: &[u8],
        metadata: &HashMap<String, String>,
    ) -> Result<Self, Status> {
        let text = std::str::from_utf8(message)
            .map_err(|_| invalid("data", "the data is no UTF-8 text: publish JSON"))?;
        let given = |name: &str| {
            let mut metadata = metadata.iter();
            metadata.find_map(|(given, value)| given.eq_ignore_ascii_case(name).then_some(value))
        };
        let (id, raw) = (given(ID), given(RAW_PAYLOAD));
        // Without an envelope of the sidecar a document may have members of the same names.
        let is_value = id.is_some() && raw.is_some_and(|raw| raw.eq_ignore_ascii_case("true"));
        let data = match is_value {
            true => text,
            false => unwrapped(text)?,
        };
        if let Some(id) = id {
            let value = value("data", data)?;
            return Ok(Self {
                id: document_id("metadata.id", id)?,
                value: Some(value),
            });
        }
        let event: SourceEvent = serde_json::from_str(data).map_err(|error| {
            invalid("data", format!("the data is no event, {{\"op\", \"id\", \"configData\"}}: {error}. To publish a document give its id as the metadata \"id\""))
        })?;
        match &event.collection {
            None => {}
            Some(Value::String(named)) if named == collection.as_str() => {}
            Some(other) => {
                let other = shortened(&other.to_string());
                let text = format!(
                    "the event is of {other}, but the topic is {collection}: publish it to the topic of its collection"
                );
                return Err(invalid("collection", text));
            }
        }
        let id = event
            .id
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or_default();
        let id = document_id("id", id)?;
        let op = event.op.unwrap_or_default();
        let op: Operation = serde_json::from_value(op.clone()).map_err(|_| {
            invalid(
                "op",
                format!(
                    "the op is {}: expected \"Create\", \"Update\" or \"Delete\"",
                    shortened(&op.to_string())
                ),
            )
        })?;
        let value = match (op, event.config_data) {
            (Operation::Delete, _) => None,
            (Operation::Create | Operation::Update, Some(config)) => {
                Some(value("configData", config.get())?)
            }
            (Operation::Create | Operation::Update, None) => {
                let text = "the event has no configData: to publish is to write the document here, so its value is needed";
                return Err(invalid("configData", text));
            }
        };
        Ok(Self { id, value })
    }
}

/// The data of a CloudEvent, or the text itself where it is none.
fn unwrapped(text: &str) -> Result<&str, Status> {
    let Ok(envelope) = serde_json::from_str::<Envelope<'_>>(text) else {
        return Ok(text);
    };
    if envelope.specversion.is_none() {
        return Ok(text);
    }
    match envelope {
        Envelope {
            data: Some(data), ..
        } => Ok(data.get()),
        Envelope {
            data_base64: Some(_),
            ..
        } => Err(invalid(
            "data",
            "the data is binary: publish it with the media type application/json",
        )),
        _ => Err(invalid("data", "the event has no data")),
    }
}

fn document_id(field: &str, id: &str) -> Result<DocumentId, Status> {
    id.parse()
        .map_err(|error| invalid(field, format!("{field}: {error}")))
}

fn value(field: &str, json: &str) -> Result<CanonicalJson, Status> {
    CanonicalJson::parse(json.as_bytes()).map_err(|JsonError { pointer, reason }| {
        invalid(
            field,
            format!("{field}: the value cannot be stored, at {pointer:?}: {reason}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_by_its_id_may_have_the_members_of_an_event() {
        let collection = "A".parse().expect("a name");
        let read = |message: &str, metadata: &[(&str, &str)]| {
            let metadata = (metadata.iter()).map(|(name, value)| ((*name).into(), (*value).into()));
            let write = Write::read(&collection, message.as_bytes(), &metadata.collect());
            write.map(|write| write.value.expect("a value").as_str().to_owned())
        };
        let document = r#"{"specversion":"2"}"#;
        let enveloped = format!(r#"{{"specversion":"1.0","data":{document}}}"#);
        let raw = [("id", "a"), ("RawPayload", "true")];
        assert_eq!(read(document, &raw).expect("a value"), document);
        assert_eq!(read(&enveloped, &raw[..1]).expect("a value"), document);
        let no_raw = [("id", "a"), ("rawPayload", "false")];
        assert_eq!(read(&enveloped, &no_raw).expect("a value"), document);
        let refusal = read(document, &raw[..1]).expect_err("an envelope without data");
        assert!(refusal.message().contains("no data"), "{refusal}");
        // An event of the source document needs no envelope either.
        let event = r#"{"op":"Update","id":"a","configData":{"n":1}}"#;
        assert_eq!(read(event, &raw[1..]).expect("a value"), r#"{"n":1}"#);
    }
}
