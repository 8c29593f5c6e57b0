//! The messages of a pluggable component, as the sidecar sends and reads them: `common.proto`,
//! `pubsub.proto` and `state.proto` of `dapr/proto/components/v1` (dapr/dapr, v1.14), written by hand.
//!
//! Names and numbers are the interface; what is not used here is omitted, and a sidecar ignores that.
//! The messages of a subscription are public for the fault campaign, which subscribes as a sidecar does.
//! Nothing here decides anything.

use std::collections::HashMap;

use prost::{Message, Oneof};

/// The settings of the component in its YAML file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetadataRequest {
    /// By name.
    #[prost(map = "string, string", tag = "1")]
    pub(crate) properties: HashMap<String, String>,
}

/// `Init` of any component.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct InitRequest {
    /// The settings.
    #[prost(message, optional, tag = "1")]
    pub(crate) metadata: Option<MetadataRequest>,
}

/// An answer or a request that says nothing: `InitResponse`, `PingRequest`, `PingResponse`,
/// `FeaturesRequest`, `PublishResponse`, `SetResponse` and the like.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Empty {}

/// The optional features of a component.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct FeaturesResponse {
    /// Their names.
    #[prost(string, repeated, tag = "1")]
    pub(crate) features: Vec<String>,
}

/// A message that an application publishes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PublishRequest {
    /// A CloudEvent, or what the application gave with `rawPayload`.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
    /// The component.
    #[prost(string, tag = "2")]
    pub(crate) pubsub_name: String,
    /// The topic.
    #[prost(string, tag = "3")]
    pub(crate) topic: String,
    /// The metadata of the call.
    #[prost(map = "string, string", tag = "4")]
    pub(crate) metadata: HashMap<String, String>,
}

/// Several messages for one topic.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BulkPublishRequest {
    /// The messages.
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<BulkMessageEntry>,
    /// The component.
    #[prost(string, tag = "2")]
    pub(crate) pubsub_name: String,
    /// The topic.
    #[prost(string, tag = "3")]
    pub(crate) topic: String,
    /// The metadata of the call.
    #[prost(map = "string, string", tag = "4")]
    pub(crate) metadata: HashMap<String, String>,
}

/// One of several messages.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BulkMessageEntry {
    /// Its id within the request.
    #[prost(string, tag = "1")]
    pub(crate) entry_id: String,
    /// As [`PublishRequest::data`].
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) event: Vec<u8>,
    /// Its metadata.
    #[prost(map = "string, string", tag = "4")]
    pub(crate) metadata: HashMap<String, String>,
}

/// Which messages were not published.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BulkPublishResponse {
    /// The others were.
    #[prost(message, repeated, tag = "1")]
    pub(crate) failed_entries: Vec<FailedEntry>,
}

/// A message that was not published.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FailedEntry {
    /// Its id within the request.
    #[prost(string, tag = "1")]
    pub(crate) entry_id: String,
    /// Why.
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

/// What a subscribing sidecar sends: first the topic, then an answer to each message.
#[derive(Clone, PartialEq, Message)]
pub struct PullRequest {
    /// In the first message alone.
    #[prost(message, optional, tag = "1")]
    pub topic: Option<Topic>,
    /// The message that is answered.
    #[prost(string, tag = "2")]
    pub ack_message_id: String,
    /// Present where the application did not take it.
    #[prost(message, optional, tag = "3")]
    pub ack_error: Option<AckError>,
}

/// Why an application did not take a message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AckError {
    /// In words.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// A topic to subscribe to.
#[derive(Clone, PartialEq, Message)]
pub struct Topic {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A message for a subscriber.
#[derive(Clone, PartialEq, Message)]
pub struct PullResponse {
    /// A CloudEvent.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    /// The topic.
    #[prost(string, tag = "2")]
    pub topic_name: String,
    /// Sent to the application as headers.
    #[prost(map = "string, string", tag = "3")]
    pub metadata: HashMap<String, String>,
    /// The media type of `data`.
    #[prost(string, tag = "4")]
    pub content_type: String,
    /// What the answer to it names.
    #[prost(string, tag = "5")]
    pub id: String,
}

/// The version of a value.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Etag {
    /// Opaque to the application.
    #[prost(string, tag = "1")]
    pub(crate) value: String,
}

/// How a value is written.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct StateOptions {
    /// 1 = the first writer wins, 2 = the last one, 0 = not said.
    #[prost(int32, tag = "1")]
    pub(crate) concurrency: i32,
}

/// `Get`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetRequest {
    /// The key.
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    /// The metadata of the call.
    #[prost(map = "string, string", tag = "2")]
    pub(crate) metadata: HashMap<String, String>,
    /// 1 = eventual, 2 = strong, 0 = not said.
    #[prost(int32, tag = "3")]
    pub(crate) consistency: i32,
}

/// The value of a key; all of it is empty where there is none.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetResponse {
    /// The value.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
    /// Its version.
    #[prost(message, optional, tag = "2")]
    pub(crate) etag: Option<Etag>,
    /// Metadata.
    #[prost(map = "string, string", tag = "3")]
    pub(crate) metadata: HashMap<String, String>,
    /// The media type of the value.
    #[prost(string, tag = "4")]
    pub(crate) content_type: String,
}

/// `Delete`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteRequest {
    /// The key.
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    /// The version that the value must have.
    #[prost(message, optional, tag = "2")]
    pub(crate) etag: Option<Etag>,
    /// The metadata of the call.
    #[prost(map = "string, string", tag = "3")]
    pub(crate) metadata: HashMap<String, String>,
    /// Options.
    #[prost(message, optional, tag = "4")]
    pub(crate) options: Option<StateOptions>,
}

/// `Set`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetRequest {
    /// The key.
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    /// The value.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
    /// The version that the value must have.
    #[prost(message, optional, tag = "3")]
    pub(crate) etag: Option<Etag>,
    /// The metadata of the call.
    #[prost(map = "string, string", tag = "4")]
    pub(crate) metadata: HashMap<String, String>,
    /// Options.
    #[prost(message, optional, tag = "5")]
    pub(crate) options: Option<StateOptions>,
    /// The media type of the value.
    #[prost(string, tag = "6")]
    pub(crate) content_type: String,
}

/// `BulkDelete`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BulkDeleteRequest {
    /// The deletions.
    #[prost(message, repeated, tag = "1")]
    pub(crate) items: Vec<DeleteRequest>,
}

/// `BulkGet`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BulkGetRequest {
    /// The reads.
    #[prost(message, repeated, tag = "1")]
    pub(crate) items: Vec<GetRequest>,
}

/// `BulkSet`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BulkSetRequest {
    /// The writes.
    #[prost(message, repeated, tag = "1")]
    pub(crate) items: Vec<SetRequest>,
}

/// Answer to `BulkGet`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BulkGetResponse {
    /// One for each read.
    #[prost(message, repeated, tag = "1")]
    pub(crate) items: Vec<BulkItem>,
}

/// One value of several.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BulkItem {
    /// The key.
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    /// The value.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) data: Vec<u8>,
    /// Its version.
    #[prost(message, optional, tag = "3")]
    pub(crate) etag: Option<Etag>,
    /// Why it cannot be read; empty where it can.
    #[prost(string, tag = "4")]
    pub(crate) error: String,
    /// The media type of the value.
    #[prost(string, tag = "6")]
    pub(crate) content_type: String,
}

/// `Transact`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TransactRequest {
    /// What happens together or not at all.
    #[prost(message, repeated, tag = "1")]
    pub(crate) operations: Vec<TransactOperation>,
    /// The metadata of the call.
    #[prost(map = "string, string", tag = "2")]
    pub(crate) metadata: HashMap<String, String>,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TransactOperation {
    /// Which.
    #[prost(oneof = "TransactKind", tags = "1, 2")]
    pub(crate) request: Option<TransactKind>,
}

/// An operation of a transaction.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum TransactKind {
    /// A deletion.
    #[prost(message, tag = "1")]
    Delete(DeleteRequest),
    /// A write.
    #[prost(message, tag = "2")]
    Set(SetRequest),
}

/// Answer to `MultiMaxSize`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct MultiMaxSizeResponse {
    /// Most operations of one transaction.
    #[prost(int64, tag = "1")]
    pub(crate) max_size: i64,
}
