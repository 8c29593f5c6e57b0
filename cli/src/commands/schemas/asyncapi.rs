//! The events of all collections as an AsyncAPI 3.0 document: through Dapr, in CloudEvents, and
//! straight through Redis, without.
//!
//! It says what the publisher sends. That subscribers also understand less (a body with `op` and
//! `id` alone) is not in it.

use anyhow::Context;
use contract::{CanonicalJson, Epoch, EventData, Operation, event};
use serde_json::{Map, Value, json};

use super::{shape::draft_7, source::Contract};

/// The document.
///
/// # Errors
/// When a schema cannot be said in the draft that AsyncAPI speaks, or a sample is no document.
pub(super) fn document(contracts: &[Contract]) -> anyhow::Result<Value> {
    let (mut channels, mut operations) = (Map::new(), Map::new());
    let (mut messages, mut schemas) = (Map::new(), Map::new());
    for contract in contracts {
        let name = contract.collection.as_str();
        let home = format!("#/components/schemas/{name}");
        let schema =
            draft_7(&contract.schema, &home).with_context(|| format!("the schema of {name}"))?;
        let change = example(contract).with_context(|| format!("the sample of {name}"))?;
        schemas.insert(name.to_owned(), schema);
        schemas.insert(format!("{name}Change"), change_schema(name, &home));
        schemas.insert(format!("{name}Event"), event_schema(name));
        let media_type = "application/cloudevents+json";
        messages.insert(
            format!("{name}Event"),
            message(name, "Event", media_type, change.as_ref().map(delivered)),
        );
        messages.insert(
            format!("{name}Change"),
            message(name, "Change", "application/json", change),
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
            for (action, who) in [("send", "The publisher"), ("receive", "A subscriber")] {
                operations.insert(
                    format!("{action}{channel}"),
                    operation(action, who, &channel, name, kind),
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
                out of order; `revision` counts the changes of a collection without gaps, and tells.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "dapr": {
                "host": "127.0.0.1:3500",
                "protocol": "http",
                "description": format!("The Dapr sidecar beside each application, which posts events to {}", event::ROUTE),
            },
            "redis": {"host": "127.0.0.1:6379", "protocol": "redis", "description": "Redis itself, without sidecars"},
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

fn channel(server: &str, address: &str, name: &str, kind: &str) -> Value {
    let mut channel = json!({
        "address": address,
        "description": match server {
            "dapr" => format!("The topic of {name}"),
            _ if address.ends_with("{id}") => format!("One document of {name}, where AURA_REDIS_DOCUMENT_CHANNELS names it"),
            _ => format!("All documents of {name}, unless AURA_REDIS_DOCUMENT_CHANNELS names it"),
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

fn operation(action: &str, who: &str, channel: &str, name: &str, kind: &str) -> Value {
    json!({
        "action": action,
        "summary": format!("{who} {action}s a change of {name}"),
        "channel": reference(&format!("channels/{channel}")),
        "messages": [reference(&format!("channels/{channel}/messages/{name}{kind}"))],
    })
}

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

/// What changed: the data of an event, and all of one without an envelope.
fn change_schema(name: &str, config: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("A committed change of {name}."),
        "properties": {
            "collection": {"const": name},
            "op": {"enum": ["Create", "Update", "Delete"]},
            "id": {"type": "string", "description": "Id of the document."},
            "configData": {
                "description": "The new value. Absent on Delete, and when it is too large or would not survive the way: fetch it.",
                "allOf": [{"$ref": config}],
            },
            "metadata": {
                "type": "object",
                "description": "What the sidecar was told, as text.",
                "additionalProperties": {"type": "string"},
            },
            "pubSubName": {"type": "string", "description": "The Dapr component it was published through."},
            "crc": {"type": "string", "pattern": "^[0-9a-f]{8}$", "description": "CRC-32C of the value in canonical form."},
            "revision": {"type": "integer", "minimum": 1, "description": "Its place in the collection, without gaps."},
            "epoch": {"type": "string", "description": "The history that the revision counts in."},
            "correlationId": {"type": "string", "description": "Of the request that made the change."},
            "userId": {"type": "string", "description": "Who asked for it."},
            "organisationId": {"type": "string", "description": "On whose behalf."},
            "lastSet": {"type": "integer", "minimum": 0, "description": "Last revision of the change set before it, 0 for none."},
            "changeSet": {
                "type": "object",
                "description": "The set it is a member of: its parts become visible together.",
                "properties": {"id": {"type": "string"}, "parts": {"type": "array", "items": {
                    "type": "object",
                    "properties": {
                        "collection": {"type": "string"}, "first": {"type": "integer"}, "last": {"type": "integer"},
                    },
                    "required": ["collection", "first", "last"],
                }}},
                "required": ["id", "parts"],
            },
            "time": {"type": "string", "format": "date-time", "description": "When it was committed; only without an envelope."},
        },
        "required": ["collection", "op", "id"],
    })
}

/// The envelope as a sidecar delivers it.
fn event_schema(name: &str) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "description": format!("A change of {name} in a CloudEvent, as a sidecar delivers it."),
        "properties": {
            "specversion": {"const": "1.0"},
            "id": text("The same for every attempt to send it: collection, epoch and revision."),
            "source": {"const": event::SOURCE},
            "type": {"const": event::TYPE},
            "subject": text("Id of the document."),
            "time": {"type": "string", "format": "date-time", "description": "When it was committed."},
            "datacontenttype": {"const": "application/json"},
            "dataschema": {
                "type": "string",
                "pattern": format!("^urn:confcast:schema:{name}:[0-9a-f]{{12}}$"),
                "description": format!("Which schema the value obeys: GET /v1/schemas/{name}?urn=…"),
            },
            "topic": {"const": name},
            "pubsubname": text("The Dapr component."),
            event::EXPIRATION: {"type": "string", "format": "date-time", "description": "Until when it is worth delivering."},
            event::SEQUENCE: {"type": "string", "pattern": "^[0-9]{20}$", "description": "The revision, to be sorted as text."},
            event::PARTITION_KEY: text("Id of the document."),
            event::CORRELATION_ID: text("X-Correlation-Id of the request that made the change."),
            event::TRACE_ID: text("Trace context under the name of the sidecar."),
            event::TRACEPARENT: text("W3C trace context."),
            "tracestate": text("W3C trace state."),
            "data": reference(&format!("components/schemas/{name}Change")),
        },
        "required": ["specversion", "id", "source", "type", "datacontenttype", "topic", "pubsubname", "data"],
    })
}

fn reference(to: &str) -> Value {
    json!({ "$ref": format!("#/{to}") })
}

/// The sample, as if it had just been stored.
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
        context: contract::Context::default(),
    };
    Ok(Some(serde_json::to_value(change)?))
}

/// The same change in its envelope.
fn delivered(change: &Value) -> Value {
    let (collection, id, component) = (&change["collection"], &change["id"], "pubsub-config");
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
