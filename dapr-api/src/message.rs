//! The messages of the Configuration API, as they are on the wire.
//!
//! The numbers are those of `dapr/proto/runtime/v1/dapr.proto` and `dapr/proto/common/v1/common.proto`
//! (Dapr 1.14; unchanged since the API is stable). Maps are kept in order, so that equal answers are
//! equal bytes. Those of a subscription are public for the fault campaign, which subscribes as an SDK does.
//! Nothing here reads a replica.

use std::collections::BTreeMap;

use serde::Serialize;

/// Values by key.
pub type Items = BTreeMap<String, Item>;

/// A value. As JSON, an empty member is absent, as Dapr writes it.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize)]
pub struct Item {
    /// The document as JSON text; empty when there is no document any more.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// The revision.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// `crc`, `epoch`, `state`, and `deleted`.
    #[prost(btree_map = "string, string", tag = "3")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Asks for values, once or with their changes: both requests have the same form.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeysRequest {
    /// The collection.
    #[prost(string, tag = "1")]
    pub store_name: String,
    /// None: all keys.
    #[prost(string, repeated, tag = "2")]
    pub keys: Vec<String>,
    /// For the component of a store; nothing is read here.
    #[prost(btree_map = "string, string", tag = "3")]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct GetResponse {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) items: Items,
}

/// A message of a subscription. The first one has the id alone.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize)]
pub struct Update {
    /// Of the subscription.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Values that are sent together.
    #[prost(btree_map = "string, message", tag = "2")]
    pub items: Items,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct UnsubscribeRequest {
    #[prost(string, tag = "1")]
    pub(crate) store_name: String,
    #[prost(string, tag = "2")]
    pub(crate) id: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message, Serialize)]
pub(crate) struct UnsubscribeResponse {
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ok: bool,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
}
