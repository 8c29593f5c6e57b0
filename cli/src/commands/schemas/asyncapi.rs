//! The events of all collections as an AsyncAPI 3.0 document: CloudEvents through Dapr, and plain
//! event data directly through Redis.
//!
//! The document describes the events that the publisher sends. Subscribers also accept smaller
//! events (a body with `op` and `id` only); these are not described.

use anyhow::Context;
use contract::{CanonicalJson, Epoch, EventData, Operation, canonical, document::JSON, event};
use serde_json::{Map, Value, json};

use super::{
    shape::{allow_sealed_forms, draft_7},
    source::Contract,
};

/// The document.
///
/// # Errors
/// When a schema cannot be expressed in draft 7, which AsyncAPI uses, or a sample is not a document.
pub(super) fn document(contracts: &[Contract]) -> anyhow::Result<Value> {
    let mut channels = Map::new();
    let mut operations = Map::new();
    let mut messages = Map::new();
    let mut schemas = Map::new();
    for contract in contracts {
        let name = contract.collection.as_str();
        let home = format!("#/components/schemas/{name}");
        let mut schema =
            draft_7(&contract.schema, &home).with_context(|| format!("the schema of {name}"))?;
        allow_sealed_forms(&mut schema);
        let change = example(contract).with_context(|| format!("the sample of {name}"))?;
        schemas.insert(name.to_owned(), schema);
        schemas.insert(format!("{name}Change"), change_schema(name, &home));
        schemas.insert(format!("{name}Event"), event_schema(name));
        messages.insert(
            format!("{name}Event"),
            message(
                name,
                "Event",
                event::MEDIA_TYPE,
                change.as_ref().map(delivered),
            ),
        );
        messages.insert(
            format!("{name}Change"),
            message(name, "Change", JSON, change),
        );

        let redis = format!("{{database}}__:{{prefix}}:{name}");
        for (channel, server, kind, address) in [
            (name.to_owned(), "dapr", "Event", name.to_owned()),
            (format!("{name}OverRedis"), "redis", "Change", redis.clone()),
            (
                format!("{name}OverRedisById"),
                "redis",
                "Change",
                format!("{redis}:{{id}}"),
            ),
        ] {
            // Each channel is described from both ends.
            for (action, actor) in [("send", "The publisher"), ("receive", "A subscriber")] {
                operations.insert(
                    format!("{action}{channel}"),
                    operation(action, actor, &channel, name, kind),
                );
            }
            channels.insert(channel, self::channel(server, &address, name, kind));
        }
    }
    Ok(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Confcast events",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One event for each committed change of a configuration document. Events may be lost, repeated and \
                out of order; `revision` numbers the changes of a collection without gaps, so a consumer can detect this.",
        },
        "defaultContentType": JSON,
        "servers": {
            "dapr": {
                "host": "127.0.0.1:3500",
                "protocol": "http",
                "description": format!("The Dapr sidecar beside each application, which posts events to {}", event::ROUTE),
            },
            "redis": {"host": "127.0.0.1:6379", "protocol": "redis", "description": "Redis, without sidecars"},
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas, "parameters": {
            "database": {"description": "Number of the database, AURA_REDIS_DATABASE", "default": "0"},
            "prefix": {"description": "AURA_REDIS_CONFIGURATION_PREFIX", "default": "aura-config"},
            "id": {"description": "Id of the document"},
        }},
    }))
}

/// The channel of a collection on one server, with the parameters of its address.
fn channel(server: &str, address: &str, name: &str, kind: &str) -> Value {
    let mut channel = json!({
        "address": address,
        "description": match server {
            "dapr" => format!("The topic of {name}"),
            _ if address.ends_with("{id}") => format!("One document of {name}, if AURA_REDIS_DOCUMENT_CHANNELS names the collection"),
            _ => format!("All documents of {name}, unless AURA_REDIS_DOCUMENT_CHANNELS names the collection"),
        },
        "servers": [reference(&format!("servers/{server}"))],
        "messages": {format!("{name}{kind}"): reference(&format!("components/messages/{name}{kind}"))},
    });
    let parameters: Map<_, _> = ["database", "prefix", "id"]
        .into_iter()
        .filter(|parameter| address.contains(&format!("{{{parameter}}}")))
        .map(|parameter| {
            (
                parameter.to_owned(),
                reference(&format!("components/parameters/{parameter}")),
            )
        })
        .collect();
    if !parameters.is_empty() {
        channel["parameters"] = parameters.into();
    }
    channel
}

/// The operation of one end of a channel.
fn operation(action: &str, actor: &str, channel: &str, name: &str, kind: &str) -> Value {
    json!({
        "action": action,
        "summary": format!("{actor} {action}s a change of {name}"),
        "channel": reference(&format!("channels/{channel}")),
        "messages": [reference(&format!("channels/{channel}/messages/{name}{kind}"))],
    })
}

/// A message, with an example if the collection has a sample.
fn message(name: &str, kind: &str, media_type: &str, example: Option<Value>) -> Value {
    let mut message = json!({
        "name": format!("{name}{kind}"),
        "title": format!("A document of {name} changed"),
        "contentType": media_type,
        "payload": reference(&format!("components/schemas/{name}{kind}")),
    });
    if let Some(payload) = example {
        message["examples"] = json!([{"name": "update", "summary": "A new value for a document", "payload": payload}]);
    }
    message
}

/// The schema of a change: the data of a CloudEvent, and the whole body of an event through Redis.
fn change_schema(name: &str, config: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("A committed change of {name}."),
        "properties": {
            "collection": {"const": name},
            "op": {"enum": ["Create", "Update", "Delete"]},
            "id": {"type": "string", "description": "Id of the document."},
            "configData": {
                "description": "The new value. Absent on Delete, and when it is too large or the transport could alter it; then fetch the document.",
                "allOf": [{"$ref": config}],
            },
            "metadata": {
                "type": "object",
                "description": "The metadata that the sidecar received, as text.",
                "additionalProperties": {"type": "string"},
            },
            "pubSubName": {"type": "string", "description": "The Dapr component that the event was published through."},
            "crc": {"type": "string", "pattern": "^[0-9a-f]{8}$", "description": "CRC-32C of the value in canonical form."},
            "revision": {"type": "integer", "minimum": 1, "description": "Number of the change in the collection, without gaps."},
            "epoch": {"type": "string", "description": "The epoch that the revision belongs to."},
            "correlationId": {"type": "string", "description": "Correlation id of the request that made the change."},
            "userId": {"type": "string", "description": "The user who requested the change."},
            "via": {"type": "string", "description": "The authenticated caller that named the user, where it was another one."},
            "organisationId": {"type": "string", "description": "The organisation of the user."},
            "lastSet": {"type": "integer", "minimum": 0, "description": "Last revision of the previous change set, 0 for none."},
            "changeSet": {
                "type": "object",
                "description": "The change set that the change belongs to; its parts become visible together.",
                "properties": {"id": {"type": "string"}, "parts": {"type": "array", "items": {
                    "type": "object",
                    "properties": {
                        "collection": {"type": "string"}, "first": {"type": "integer"}, "last": {"type": "integer"},
                    },
                    "required": ["collection", "first", "last"],
                }}},
                "required": ["id", "parts"],
            },
            "time": {"type": "string", "format": "date-time", "description": "Time of the commit; only in an event without an envelope."},
        },
        "required": ["collection", "op", "id"],
    })
}

/// The schema of the CloudEvent that a sidecar delivers.
fn event_schema(name: &str) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "description": format!("A change of {name} in a CloudEvent, as a sidecar delivers it."),
        "properties": {
            "specversion": {"const": "1.0"},
            "id": text("Collection, epoch and revision; the same for every attempt to send the event."),
            "source": {"const": event::SOURCE},
            "type": {"const": event::TYPE},
            "subject": text("Id of the document."),
            "time": {"type": "string", "format": "date-time", "description": "Time of the commit."},
            "datacontenttype": {"const": JSON},
            "dataschema": {
                "type": "string",
                "pattern": format!("^urn:confcast:schema:{name}:[0-9a-f]{{12}}$"),
                "description": format!("The schema of the value: GET /v1/schemas/{name}?urn=…"),
            },
            "topic": {"const": name},
            "pubsubname": text("The Dapr component."),
            event::EXPIRATION: {"type": "string", "format": "date-time", "description": "Time after which the sidecar may discard the event."},
            event::SEQUENCE: {"type": "string", "pattern": "^[0-9]{20}$", "description": "The revision with leading zeros, so that it sorts as text."},
            event::PARTITION_KEY: text("Id of the document."),
            event::CORRELATION_ID: text("X-Correlation-Id of the request that made the change."),
            event::TRACE_ID: text("W3C trace context, under the name that the sidecar uses."),
            event::TRACEPARENT: text("W3C trace context."),
            "tracestate": text("W3C trace state."),
            "data": reference(&format!("components/schemas/{name}Change")),
        },
        "required": ["specversion", "id", "source", "type", "datacontenttype", "topic", "pubsubname", "data"],
    })
}

/// A JSON reference to a part of the document.
fn reference(to: &str) -> Value {
    json!({ "$ref": format!("#/{to}") })
}

/// Event data of the sample, as if the sample had just been stored.
fn example(contract: &Contract) -> anyhow::Result<Option<Value>> {
    let Some(sample) = &contract.sample else {
        return Ok(None);
    };
    let config = CanonicalJson::parse(sample.text.as_bytes())?;
    let change = EventData {
        collection: contract.collection.clone(),
        op: Operation::Update,
        id: sample.value["id"].as_str().unwrap_or("example").parse()?,
        crc: Some(config.crc()),
        config_data: Some(config),
        metadata: std::collections::BTreeMap::new(),
        pub_sub_name: None,
        revision: Some(42),
        epoch: Some(Epoch {
            lineage: 0x9f86_d081,
            counter: 1,
        }),
        last_set: Some(0),
        change_set: None,
        proof: None,
        config_data_hash: None,
        confirm: None,
        signature: None,
        context: contract::Context::default(),
    };
    Ok(Some(canonical::value(&serde_json::to_vec(&change)?)?))
}

/// The same change in a CloudEvent.
fn delivered(change: &Value) -> Value {
    let collection = &change["collection"];
    let id = &change["id"];
    let component = "pubsub-config";
    let mut data = change.clone();
    data["metadata"] = json!({(event::TTL): "60"});
    data["pubSubName"] = json!(component);
    let event_id = [collection, &change["epoch"]]
        .map(|part| part.as_str().unwrap_or_default())
        .join(":");
    json!({
        "specversion": "1.0", "id": format!("{event_id}:{}", change["revision"]), "source": event::SOURCE,
        "type": event::TYPE, "subject": id, "time": "2026-11-21T09:00:00.123Z", "datacontenttype": "application/json",
        "topic": collection, "pubsubname": component, (event::EXPIRATION): "2026-11-21T09:01:00Z",
        (event::SEQUENCE): "00000000000000000042", (event::PARTITION_KEY): id, "data": data,
    })
}
