//! CloudEvents over HTTP: from headers and a body to data and an expiration.
//!
//! An event as sidecars deliver it is parsed in a single pass ([`parse_change`]). Every other event,
//! and every invalid one, becomes one JSON object, which the CloudEvents SDK reads ([`read`]). This
//! module adds what the SDK does not do: media types in any case, batches are recognised,
//! percent-encoded headers, and required attributes that are not empty. An attribute that decides
//! nothing never costs the event: one of another form is left out, also a trace context, which may be
//! empty or all zeros. Source: CloudEvents 1.0, its JSON format and its HTTP protocol
//! binding.
//!
//! Data may be an event again, or a text: an event that was published as plain JSON, that was read
//! raw, or that has the media type `text/json`. [`opened`] opens it.

use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use chrono::{DateTime, Utc};
use cloudevents::{AttributesReader, Data, Event};
use contract::{
    TraceParent, canonical,
    document::JSON,
    event::{EXPIRATION, MEDIA_TYPE as STRUCTURED, TOPIC},
};
use percent_encoding::percent_decode;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use state::{Origin, SignedChange};

/// The header that a message in binary mode has.
pub(super) const SPEC_VERSION: &str = "ce-specversion";
/// Prefix of the media types of CloudEvents in any format.
const CLOUDEVENTS: &str = "application/cloudevents";
/// Prefix of the headers that carry the attributes in binary mode.
const PREFIX: &str = "ce-";
/// Members that are read, whatever form they have: a wrong one is an error.
const REQUIRED: [&str; 7] = [
    "specversion",
    "id",
    "source",
    "type",
    "datacontenttype",
    "data",
    "data_base64",
];
/// How many events may be inside each other.
const MAX_ENVELOPES: usize = 2;
/// Longest part of a name that a log shows.
const MAX_NAME_CHARS: usize = 128;

/// The parts of an event that a replica uses.
#[derive(Debug, PartialEq)]
pub(super) struct CloudEvent {
    /// Its id and source, for logs.
    pub(super) name: String,
    /// Its data; null when there is none.
    pub(super) data: Value,
    /// The topic, as a sidecar adds it.
    pub(super) topic: Option<String>,
    /// Until when it is worth delivering. One that cannot be parsed is no limit.
    pub(super) expiration: Option<DateTime<Utc>>,
}

/// An event in structured mode as sidecars deliver it. Attributes that a replica does not use are
/// skipped.
#[derive(Deserialize)]
struct DeliveredEvent<'a> {
    /// `1.0`, else another path reads the event.
    #[serde(rename = "specversion")]
    version: &'a str,
    id: &'a str,
    source: &'a str,
    /// Required, and not empty. A replica uses the data alone.
    #[serde(rename = "type")]
    kind: &'a str,
    /// Media type of `data`. Sidecars write exactly `application/json`.
    #[serde(rename = "datacontenttype")]
    media_type: &'a str,
    /// The time of the commit. Nothing is decided by it: another form counts as absent.
    #[serde(default, deserialize_with = "contract::lenient::text")]
    time: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "contract::lenient::text")]
    traceparent: Option<TraceParent>,
    /// The change. An event without a revision is not one, and takes the other path.
    data: SignedChange,
    /// Present only in events of another form.
    data_base64: Option<IgnoredAny>,
}

/// Fast path: the change of an event that has the form in which sidecars deliver it, and a revision.
/// `None` for every other event: [`read`] accepts more forms and gives the error. The expiration is
/// not read: the revision decides.
pub(super) fn parse_change(headers: &HeaderMap, body: &[u8]) -> Option<SignedChange> {
    let parameters = headers
        .get(CONTENT_TYPE)?
        .as_bytes()
        .strip_prefix(STRUCTURED.as_bytes())?;
    // A longer media type only begins in the same way.
    if !matches!(parameters.first(), None | Some(b';')) {
        return None;
    }
    parse_delivered(body)
}

/// As [`parse_change`], of a structured event whose media type is known: an entry of a bulk.
pub(super) fn parse_delivered(event: &[u8]) -> Option<SignedChange> {
    let mut event: DeliveredEvent<'_> = contract::objects::from_slice(event).ok()?;
    event.data.change.origin = Origin {
        committed: event.time,
        trace: event.traceparent,
    };
    // The specification wants these attributes to be present and not empty.
    let required = [event.id, event.source, event.kind]
        .iter()
        .all(|value| !value.is_empty());
    let as_delivered =
        event.version == "1.0" && event.media_type == JSON && event.data_base64.is_none();
    (required && as_delivered).then_some(event.data)
}

/// Why a message is not an event.
/// It is the reason and the error of a dropped event, and so is shown in the status.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub(super) struct CloudEventError {
    /// One word of a fixed list: `not-a-cloudevent`, `unsolicited-format`, `wrong-type`.
    pub(super) reason: &'static str,
    /// The error in full.
    pub(super) detail: String,
    /// Id and source of the event, as far as it has them.
    pub(super) name: Option<String>,
}

/// The message is not an event, or an invalid one.
fn not_an_event(error: impl ToString) -> CloudEventError {
    CloudEventError {
        reason: "not-a-cloudevent",
        detail: error.to_string(),
        name: None,
    }
}

/// Reads an event in structured or binary mode.
///
/// # Errors
/// When the message is not an event. Sending it again would not help.
pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<CloudEvent, CloudEventError> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let event = if media_type == STRUCTURED {
        return match canonical::value(body).map_err(not_an_event)? {
            Value::Object(members) => opened(structured(members)?),
            _other => Err(not_an_event("the body is not a JSON object")),
        };
    } else if media_type.starts_with(CLOUDEVENTS) {
        // Batches, and formats other than JSON.
        return Err(CloudEventError {
            reason: "unsolicited-format",
            detail: format!("the media type {media_type} is not supported"),
            name: None,
        });
    } else if headers.contains_key(SPEC_VERSION) {
        let members = attributes(headers, content_type)?;
        let name = name_of(&members);
        let mut event = event(members)?;
        event.set_data_unchecked(body.to_vec());
        (event, name)
    } else {
        return Err(not_an_event(
            "neither the media type nor the headers are those of a CloudEvent",
        ));
    };
    let (event, name) = event;
    opened(parts(event, name)?)
}

/// Reads one entry of a bulk of events: a CloudEvent in JSON.
///
/// # Errors
/// As [`read`].
pub(super) fn entry(event: Value) -> Result<CloudEvent, CloudEventError> {
    match event {
        Value::Object(members) => opened(structured(members)?),
        _other => Err(not_an_event("the entry is not a JSON object")),
    }
}

/// The event whose data is not an event and not a text: at most two envelopes are opened.
///
/// # Errors
/// When an inner event is invalid.
fn opened(mut event: CloudEvent) -> Result<CloudEvent, CloudEventError> {
    for _envelope in 0..MAX_ENVELOPES {
        // JSON that a sidecar took for a text, because of its media type.
        if let Value::String(text) = &event.data
            && let Ok(data @ Value::Object(_)) = canonical::value(text.as_bytes())
        {
            event.data = data;
        }
        let is_event = event.data.get("specversion").is_some()
            && event.data.get("collection").is_none()
            && (event.data.get("data").is_some() || event.data.get("data_base64").is_some());
        let Value::Object(members) = &mut event.data else {
            return Ok(event);
        };
        if !is_event {
            return Ok(event);
        }
        let inner = structured(std::mem::take(members))?;
        event = CloudEvent {
            // The envelope that was written last knows until when delivering is worth it.
            expiration: event.expiration.or(inner.expiration),
            topic: event.topic.or(inner.topic),
            ..inner
        };
    }
    Ok(event)
}

/// Id and source of an event, for logs; what is not a text is left out.
fn name_of(members: &Map<String, Value>) -> String {
    let text = |name: &str| {
        let text = members.get(name).and_then(Value::as_str);
        text.unwrap_or("?")
            .chars()
            .take(MAX_NAME_CHARS)
            .collect::<String>()
    };
    format!("{} of {}", text("id"), text("source"))
}

/// An event in structured mode. The SDK would take a member of the data for one of its own JSON
/// library's, so it gets data without members, and the data is put back.
fn structured(mut members: Map<String, Value>) -> Result<CloudEvent, CloudEventError> {
    let name = name_of(&members);
    let data = members
        .get_mut("data")
        .filter(|data| data.is_object() || data.is_array());
    let data = data.map(|data| {
        let without_members = if data.is_object() {
            Value::Object(Map::new())
        } else {
            Value::Array(Vec::new())
        };
        std::mem::replace(data, without_members)
    });
    if members.contains_key("data_base64") {
        // As bytes, so that this module reads them.
        members.insert(
            "datacontenttype".to_owned(),
            "application/octet-stream".into(),
        );
    }
    let named = |error| CloudEventError {
        name: Some(name.clone()),
        ..error
    };
    let mut event = parts(event(members).map_err(named)?, name.clone()).map_err(named)?;
    if let Some(data) = data {
        event.data = data;
    }
    Ok(event)
}

/// What a replica uses of an event that has all that it must have.
fn parts(mut event: Event, name: String) -> Result<CloudEvent, CloudEventError> {
    for (attribute, value) in [
        ("id", event.id()),
        ("source", event.source()),
        ("type", event.ty()),
    ] {
        // The SDK accepts empty attributes; the specification does not.
        if value.is_empty() {
            return Err(not_an_event(format_args!("{attribute} is empty")));
        }
    }
    // An expiration that cannot be parsed is no reason to lose a change.
    let expiration = event.extension(EXPIRATION).map(ToString::to_string);
    let expiration = expiration
        .and_then(|text| DateTime::parse_from_rfc3339(&text).ok())
        .map(DateTime::<Utc>::from);
    let topic = event.extension(TOPIC).map(ToString::to_string);
    let (_content_type, _schema, data) = event.take_data();
    let data = data.map(|data| match data {
        Data::Binary(json) => canonical::value(&json),
        Data::String(json) => canonical::value(json.as_bytes()),
        Data::Json(value) => Ok(value),
    });
    let data = data.transpose();
    let data = data.map_err(|error| CloudEventError {
        reason: "wrong-type",
        detail: format!("the data is not JSON: {error}"),
        name: Some(name.clone()),
    })?;
    Ok(CloudEvent {
        name,
        data: data.unwrap_or_default(),
        topic,
        expiration,
    })
}

/// An event of the SDK, which compares the media type of the data byte by byte: it is lower case
/// here.
///
/// # Errors
/// When a required attribute is absent, or any attribute is invalid.
fn event(mut members: Map<String, Value>) -> Result<Event, CloudEventError> {
    // Media types have no case.
    if let Some(Value::String(media_type)) = members.get_mut("datacontenttype") {
        media_type.make_ascii_lowercase();
    }
    members.retain(|name, value| REQUIRED.contains(&name.as_str()) || is_harmless(name, value));
    serde_json::from_value(Value::Object(members)).map_err(not_an_event)
}

/// Whether the SDK reads an attribute that is not required. It refuses the whole event for a time
/// that is none, for a URI that is none, and for an extension that is a float, null or nested.
fn is_harmless(name: &str, value: &Value) -> bool {
    match (name, value) {
        ("time", value) => value
            .as_str()
            .is_some_and(|text| DateTime::parse_from_rfc3339(text).is_ok()),
        // Nothing here uses it.
        ("dataschema" | "subject", _) => false,
        (_, Value::String(_) | Value::Bool(_)) => true,
        (_, Value::Number(number)) => number.is_i64(),
        (_, Value::Null | Value::Array(_) | Value::Object(_)) => false,
    }
}

/// Binary mode: the attributes as members of a structured event without data.
///
/// # Errors
/// When a header is no attribute in binary mode, or is not UTF-8 after it was decoded.
fn attributes(
    headers: &HeaderMap,
    content_type: &str,
) -> Result<Map<String, Value>, CloudEventError> {
    let mut members = Map::new();
    for (header, value) in headers {
        // Other headers are not about the event.
        let Some(name) = header.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        // Those are members of the structured form; as attributes they could replace the body.
        if matches!(name, "data" | "data_base64" | "datacontenttype") {
            return Err(not_an_event(format_args!(
                "{header} is not an attribute in binary mode"
            )));
        }
        let text = percent_decode(value.as_bytes()).decode_utf8();
        let text = text.map_err(|error| not_an_event(format_args!("{header}: {error}")))?;
        members.insert(name.to_owned(), text.into());
    }
    // In binary mode the media type of the message is that of the data.
    if !content_type.is_empty() {
        members.insert("datacontenttype".to_owned(), content_type.into());
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};
    use serde_json::json;

    use super::*;

    fn check(headers: &[(&str, &str)], body: &str) -> Result<CloudEvent, CloudEventError> {
        let header = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().expect("a header name");
            (
                name,
                HeaderValue::from_bytes(value.as_bytes()).expect("a header value"),
            )
        };
        read(&headers.iter().map(header).collect(), body.as_bytes())
    }

    fn structured(change: impl FnOnce(&mut Value)) -> Result<CloudEvent, CloudEventError> {
        let mut event =
            json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"a": 1}});
        change(&mut event);
        check(&[("content-type", STRUCTURED)], &event.to_string())
    }

    fn reason_of(result: Result<CloudEvent, CloudEventError>) -> &'static str {
        result.expect_err("invalid").reason
    }

    #[test]
    fn structured_mode_is_read_in_every_form() {
        let body = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"a":1}}"#;
        let expected = Ok(CloudEvent {
            name: "1 of s".to_owned(),
            data: json!({"a": 1}),
            topic: None,
            expiration: None,
        });
        for media_type in [
            STRUCTURED,
            "Application/CloudEvents+JSON; charset=UTF-8",
            "application/cloudevents+json ;x=y",
        ] {
            assert_eq!(
                check(&[("content-type", media_type)], body),
                expected,
                "{media_type}"
            );
        }
        assert_eq!(
            structured(|event| event["datacontenttype"] = json!("Application/JSON")),
            expected
        );
        assert_eq!(
            structured(|event| {
                *event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data_base64": "eyJhIjoxfQ=="});
            }),
            expected
        );
        assert_eq!(
            structured(|event| event["data"] = Value::Null).map(|event| event.data),
            Ok(Value::Null)
        );
    }

    #[test]
    fn an_event_as_sidecars_deliver_it_is_parsed_in_a_single_pass() {
        let body = r#"{"data":{"collection":"A","configData":{"a":1},"epoch":"0f86d081-1","id":"x","op":"Update","revision":7,
            "metadata":{},"pubSubName":"p"},"datacontenttype":"application/json","expiration":"2024-05-06T07:08:09Z","id":"1",
            "source":"s","specversion":"1.0","time":"2024-05-06T07:08:09Z","topic":"T","traceid":"","type":"t"}"#;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(STRUCTURED))]);
        let event = read(&headers, body.as_bytes()).expect("an event");
        let data: contract::EventData = serde_json::from_value(event.data).expect("data");
        let change = parse_change(&headers, body.as_bytes());
        assert!(change.is_some());
        assert_eq!(
            change,
            SignedChange::from_event(&data),
            "both paths give the same change"
        );
        assert_eq!(parse_change(&HeaderMap::new(), body.as_bytes()), None);
        for (media_type, as_delivered) in [
            ("application/cloudevents+json; charset=utf-8", true),
            ("application/cloudevents+json-seq", false),
        ] {
            let headers =
                HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
            assert_eq!(
                parse_change(&headers, body.as_bytes()).is_some(),
                as_delivered,
                "{media_type}"
            );
        }
        for (delivered, other) in [
            (r#""specversion":"1.0""#, r#""specversion":"0.3""#),
            ("application/json", "text/json"),
            (r#""data":{"#, r#""data_base64":"eyJhIjoxfQ==","data":{"#),
            (r#""topic":"T""#, r#""id":"2""#),
            (r#""id":"1""#, r#""id":"""#),
            (r#""source":"s","#, ""),
            (r#""revision":7,"#, ""),
            (r#"{"a":1}"#, "[1]"),
            (r#""op":"Update""#, r#""op":"update""#),
        ] {
            let odd = body.replace(delivered, other);
            assert_ne!(odd, body);
            assert_eq!(parse_change(&headers, odd.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_member_with_a_name_of_the_json_library_is_data_like_any_other() {
        let data = r#"{"a":{"$serde_json::private::RawValue":"[1]"}}"#;
        let base64 = "eyJhIjp7IiRzZXJkZV9qc29uOjpwcml2YXRlOjpSYXdWYWx1ZSI6IlsxXSJ9fQ==";
        for member in [
            format!(r#""data":{data}"#),
            format!(r#""data_base64":"{base64}""#),
        ] {
            let body =
                format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t",{member}}}"#);
            let event = check(&[("content-type", STRUCTURED)], &body).expect("an event");
            assert_eq!(event.data.to_string(), data, "{member}");
        }
        let attributes = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "s"),
            ("ce-type", "t"),
            ("content-type", "application/json"),
        ];
        let event = check(&attributes, data).expect("an event");
        assert_eq!(event.data.to_string(), data);
    }

    #[test]
    fn an_attribute_that_decides_nothing_costs_no_event() {
        for (member, value) in [
            ("time", json!("noon")),
            ("time", json!(7)),
            ("time", Value::Null),
            ("dataschema", json!("not a uri")),
            ("subject", json!({})),
            ("extension", json!({"a": 1})),
            ("extension", json!(1.5)),
            ("extension", json!([1])),
            ("extension", json!(18_446_744_073_709_551_615_u64)),
            ("extension", Value::Null),
            ("traceparent", Value::Null),
        ] {
            let read = structured(|event| event[member] = value.clone());
            assert_eq!(
                read.map(|event| event.data),
                Ok(json!({"a": 1})),
                "{member}: {value}"
            );
        }
    }

    #[test]
    fn data_that_is_an_event_or_a_text_is_opened() {
        let inner = json!({"specversion": "1.0", "id": "inner", "source": "s", "type": "t", "data": {"a": 1}});
        let opened =
            |change: &dyn Fn(&mut Value)| structured(change).map(|event| (event.name, event.data));
        let expected = Ok(("inner of s".to_owned(), json!({"a": 1})));
        assert_eq!(opened(&|event| event["data"] = inner.clone()), expected);
        // A raw subscription: the sidecar wraps the bytes of the event that it read.
        let raw = "eyJzcGVjdmVyc2lvbiI6IjEuMCIsImlkIjoiaW5uZXIiLCJzb3VyY2UiOiJzIiwidHlwZSI6InQiLCJkYXRhIjp7ImEiOjF9fQ==";
        let wrap = |event: &mut Value| {
            event["data_base64"] = json!(raw);
            event.as_object_mut().expect("an object").remove("data");
        };
        assert_eq!(opened(&wrap), expected);
        for media_type in [
            "text/json",
            "text/plain",
            "application/vnd.x+json",
            "application/json",
        ] {
            let text = structured(|event| {
                event["datacontenttype"] = json!(media_type);
                event["data"] = json!(r#"{"a":1}"#);
            });
            assert_eq!(
                text.map(|event| event.data),
                Ok(json!({"a": 1})),
                "{media_type}"
            );
        }
        // A document of a collection may have members of such names: its data names a collection.
        let data = json!({"collection": "A", "specversion": "1.0", "data": {}});
        let read = structured(|event| event["data"] = data.clone());
        assert_eq!(read.map(|event| event.data), Ok(data));
        // No depth is without a limit.
        let mut deep = inner.clone();
        for _ in 0..10 {
            deep =
                json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": deep});
        }
        let read = structured(|event| event["data"] = deep);
        assert!(read.is_ok_and(|event| event.data.get("specversion").is_some()));
    }

    #[test]
    fn trace_context_may_be_empty_or_zero() {
        for trace in [
            "",
            "00-00000000000000000000000000000000-0000000000000000-00",
        ] {
            let read = structured(|event| {
                event["traceparent"] = json!(trace);
                event["traceid"] = json!(trace);
                event["tracestate"] = json!("");
            });
            assert!(read.is_ok(), "{trace}: {read:?}");
        }
    }

    #[test]
    fn expiration_is_read_leniently() {
        let read = |text: Value| {
            structured(|event| event["expiration"] = text).map(|event| event.expiration)
        };
        let expected = DateTime::parse_from_rfc3339("2024-05-06T07:08:09Z")
            .expect("a time")
            .to_utc();
        assert_eq!(read(json!("2024-05-06T09:08:09+02:00")), Ok(Some(expected)));
        for none in [json!("soon"), json!(""), json!(5), json!(true)] {
            assert_eq!(read(none), Ok(None));
        }
    }

    #[test]
    fn binary_mode_decodes_percent_encoded_headers() {
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", "a%20b"),
            ("Ce-Source", "s"),
            ("ce-type", "t"),
            ("content-type", "application/json"),
            ("ce-expiration", "2024-05-06T07:08:09%5A"),
        ];
        let event = check(&headers, r#"{"a":1}"#).expect("an event");
        assert_eq!(
            (event.data, event.expiration.is_some()),
            (json!({"a": 1}), true)
        );
        assert_eq!(reason_of(check(&headers, "not JSON")), "wrong-type");
        assert_eq!(reason_of(check(&headers[..3], "{}")), "not-a-cloudevent");
        let mut bad = headers;
        bad[1].1 = "%FF";
        assert_eq!(reason_of(check(&bad, "{}")), "not-a-cloudevent");
        bad[1].1 = "";
        assert_eq!(reason_of(check(&bad, "{}")), "not-a-cloudevent");
    }

    #[test]
    fn an_invalid_message_is_refused_with_a_reason() {
        for (media_type, body, reason) in [
            (
                "application/json",
                r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#,
                "not-a-cloudevent",
            ),
            (STRUCTURED, "not JSON", "not-a-cloudevent"),
            (STRUCTURED, "", "not-a-cloudevent"),
            (STRUCTURED, "[]", "not-a-cloudevent"),
            (STRUCTURED, "{}", "not-a-cloudevent"),
            (
                "application/cloudevents-batch+json",
                "[]",
                "unsolicited-format",
            ),
            (
                "APPLICATION/CLOUDEVENTS-BATCH+JSON",
                "[]",
                "unsolicited-format",
            ),
            ("application/cloudevents+avro", "", "unsolicited-format"),
        ] {
            assert_eq!(
                reason_of(check(&[("content-type", media_type)], body)),
                reason,
                "{media_type}: {body}"
            );
        }
        for (member, value) in [
            ("id", json!("")),
            ("source", json!("")),
            ("type", json!("")),
            ("id", json!(5)),
            ("specversion", json!("9")),
            ("data_base64", json!("e30=")),
        ] {
            assert_eq!(
                reason_of(structured(|event| event[member] = value)),
                "not-a-cloudevent",
                "{member}"
            );
        }
        let text = structured(|event| {
            event["datacontenttype"] = json!("text/plain");
            event["data"] = json!("hello");
        });
        assert_eq!(reason_of(text), "wrong-type");
    }
}
