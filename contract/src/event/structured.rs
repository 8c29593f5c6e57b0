//! The CloudEvent around the data of an event: one writer for every program that sends one. What it has to
//! say is decided by the sender.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{SOURCE, TYPE};
use crate::document::JSON;

/// An event in structured mode (CloudEvents 1.0, JSON event format) as it is written; a member without a
/// value is omitted.
#[derive(Debug, Clone, Serialize)]
pub struct StructuredEvent<'a, D> {
    /// The version of CloudEvents.
    pub specversion: &'static str,
    /// The id of the event.
    pub id: String,
    /// See [`SOURCE`].
    pub source: &'static str,
    /// See [`TYPE`].
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The document id; an id-only event has it in the data alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    /// When the change was made, or sent.
    pub time: DateTime<Utc>,
    /// The media type of the data.
    pub datacontenttype: &'static str,
    /// The URN of the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataschema: Option<&'a str>,
    /// See [`super::sequence`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// See [`super::PARTITION_KEY`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitionkey: Option<&'a str>,
    /// See [`super::CORRELATION_ID`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<&'a str>,
    /// See [`super::TRACEPARENT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<&'a str>,
    /// See [`super::TRACE_ID`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceid: Option<&'a str>,
    /// What a sidecar adds, where none does.
    #[serde(flatten)]
    pub added: Option<AddedBySidecar<'a>>,
    /// What happened.
    pub data: D,
}

/// The members that a sidecar adds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AddedBySidecar<'a> {
    /// See [`super::TOPIC`].
    pub topic: &'a str,
    /// The Dapr component.
    pub pubsubname: &'a str,
    /// See [`super::EXPIRATION`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<&'a str>,
}

impl<D> StructuredEvent<'_, D> {
    /// An event with the attributes that every event of Confcast has.
    pub fn new(id: String, time: DateTime<Utc>, data: D) -> Self {
        Self {
            specversion: "1.0",
            id,
            source: SOURCE,
            kind: TYPE,
            subject: None,
            time,
            datacontenttype: JSON,
            dataschema: None,
            sequence: None,
            partitionkey: None,
            correlationid: None,
            traceparent: None,
            traceid: None,
            added: None,
            data,
        }
    }
}
