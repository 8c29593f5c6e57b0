//! CloudEvents over HTTP: from headers and a body to data and an expiration.
//!
//! What sidecars deliver is read where it stands ([`plain`]). All else, and all that is wrong,
//! becomes one JSON object, which the CloudEvents SDK reads ([`read`]). Around it stands what the
//! SDK does not do: media types in any case, batches told apart, percent-encoded headers, and
//! required attributes that are not empty (requirement section 3). Trace context is not read here,
//! so it may be empty or all zeros.

use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use chrono::{DateTime, Utc};
use cloudevents::{AttributesReader, Event};
use contract::event::EXPIRATION;
use percent_encoding::percent_decode;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use state::ReceivedChange;

/// Media type of one event in structured mode.
const STRUCTURED: &str = "application/cloudevents+json";
/// Media types of CloudEvents begin like this, whatever their format.
const CLOUDEVENTS: &str = "application/cloudevents";
/// Attributes travel in headers of this prefix in binary mode.
const PREFIX: &str = "ce-";

/// What an event carries.
#[derive(Debug, PartialEq)]
pub(crate) struct Envelope {
    /// Its data; null when there is none.
    pub(crate) data: Value,
    /// Until when it is worth delivering. One that cannot be read is no limit.
    pub(crate) expiration: Option<DateTime<Utc>>,
}

/// An event in structured mode as sidecars deliver it. Attributes that mean nothing to a replica
/// are not looked at.
#[derive(Deserialize)]
struct Delivered<'a> {
    #[serde(rename = "specversion")]
    version: &'a str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(rename = "datacontenttype")]
    media_type: &'a str,
    #[serde(rename = "time")]
    _time: Option<DateTime<Utc>>,
    data: ReceivedChange,
    data_base64: Option<IgnoredAny>,
}

/// What an event says that is just as sidecars deliver it, and has a revision, read in one go. What
/// does not fit is left to [`read`], which takes more and says what is wrong. Its expiration is not
/// asked for: the revision decides.
pub(crate) fn plain(headers: &HeaderMap, body: &[u8]) -> Option<ReceivedChange> {
    let parameters = headers
        .get(CONTENT_TYPE)?
        .as_bytes()
        .strip_prefix(STRUCTURED.as_bytes())?;
    if !matches!(parameters.first(), None | Some(b';')) {
        return None;
    }
    let event: Delivered<'_> = serde_json::from_slice(body).ok()?;
    let required = [event.id, event.source, event.kind]
        .iter()
        .all(|value| !value.is_empty());
    let plain = event.version == "1.0"
        && event.media_type == "application/json"
        && event.data_base64.is_none();
    (required && plain).then_some(event.data)
}

/// Why a message is not an event: in one word that stays the same, and in full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Poison {
    /// The word.
    pub(crate) reason: &'static str,
    /// The error.
    pub(crate) error: String,
}

fn not_an_event(error: impl ToString) -> Poison {
    Poison {
        reason: "not-a-cloudevent",
        error: error.to_string(),
    }
}

/// Reads an event.
///
/// # Errors
/// When it is none, and never will be.
pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Envelope, Poison> {
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
    let mut event = if media_type == STRUCTURED {
        event(serde_json::from_slice(body).map_err(not_an_event)?)?
    } else if media_type.starts_with(CLOUDEVENTS) {
        return Err(Poison {
            reason: "unsolicited-format",
            error: format!("{media_type} was not asked for"),
        });
    } else if headers.contains_key("ce-specversion") {
        let mut event = event(attributes(headers, content_type)?)?;
        event.set_data_unchecked(body.to_vec());
        event
    } else {
        return Err(not_an_event(
            "neither the media type nor the headers are those of a CloudEvent",
        ));
    };
    for (name, value) in [
        ("id", event.id()),
        ("source", event.source()),
        ("type", event.ty()),
    ] {
        if value.is_empty() {
            return Err(not_an_event(format_args!("{name} is empty")));
        }
    }
    let expiration = event.extension(EXPIRATION).map(ToString::to_string);
    let expiration = expiration
        .and_then(|text| DateTime::parse_from_rfc3339(&text).ok())
        .map(DateTime::<Utc>::from);
    let (_content_type, _schema, data) = event.take_data();
    let data = data.map(Value::try_from).transpose();
    let data = data.map_err(|error| Poison {
        reason: "wrong-type",
        error: format!("the data is not JSON: {error}"),
    })?;
    Ok(Envelope {
        data: data.unwrap_or_default(),
        expiration,
    })
}

/// The SDK compares the media type of the data as it is written.
fn event(mut members: Map<String, Value>) -> Result<Event, Poison> {
    if let Some(Value::String(media_type)) = members.get_mut("datacontenttype") {
        media_type.make_ascii_lowercase();
    }
    serde_json::from_value(Value::Object(members)).map_err(not_an_event)
}

/// Binary mode: the attributes as members of a structured event without data.
fn attributes(headers: &HeaderMap, content_type: &str) -> Result<Map<String, Value>, Poison> {
    let mut members = Map::new();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        if matches!(name, "data" | "data_base64" | "datacontenttype") {
            return Err(not_an_event(format_args!(
                "{header} is not an attribute in binary mode"
            )));
        }
        let text = percent_decode(value.as_bytes()).decode_utf8();
        let text = text.map_err(|error| not_an_event(format_args!("{header}: {error}")))?;
        members.insert(name.to_owned(), text.into());
    }
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

    fn check(headers: &[(&str, &str)], body: &str) -> Result<Envelope, Poison> {
        let header = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().expect("a header name");
            (
                name,
                HeaderValue::from_bytes(value.as_bytes()).expect("a header value"),
            )
        };
        read(&headers.iter().map(header).collect(), body.as_bytes())
    }

    fn structured(change: impl FnOnce(&mut Value)) -> Result<Envelope, Poison> {
        let mut event =
            json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"a": 1}});
        change(&mut event);
        check(&[("content-type", STRUCTURED)], &event.to_string())
    }

    fn refused(result: Result<Envelope, Poison>) -> &'static str {
        result.expect_err("poison").reason
    }

    #[test]
    fn structured_mode_in_every_spelling() {
        let body = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"a":1}}"#;
        let expected = Ok(Envelope {
            data: json!({"a": 1}),
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
    fn what_sidecars_deliver_is_read_in_one_go() {
        let body = r#"{"data":{"collection":"A","configData":{"a":1},"epoch":"0f86d081-1","id":"x","op":"Update","revision":7,
            "metadata":{},"pubSubName":"p"},"datacontenttype":"application/json","expiration":"2024-05-06T07:08:09Z","id":"1",
            "source":"s","specversion":"1.0","time":"2024-05-06T07:08:09Z","topic":"T","traceid":"","type":"t"}"#;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(STRUCTURED))]);
        let event = read(&headers, body.as_bytes()).expect("an event");
        let data: contract::EventData = serde_json::from_value(event.data).expect("data");
        let hint = plain(&headers, body.as_bytes());
        assert!(hint.is_some());
        assert_eq!(
            hint,
            ReceivedChange::from_event(&data),
            "both ways of reading say the same"
        );
        assert_eq!(plain(&HeaderMap::new(), body.as_bytes()), None);
        for (media_type, is_plain) in [
            ("application/cloudevents+json; charset=utf-8", true),
            ("application/cloudevents+json-seq", false),
        ] {
            let headers =
                HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
            assert_eq!(
                plain(&headers, body.as_bytes()).is_some(),
                is_plain,
                "{media_type}"
            );
        }
        for (plainly, other) in [
            (r#""specversion":"1.0""#, r#""specversion":"0.3""#),
            ("application/json", "text/json"),
            (r#""data":{"#, r#""data_base64":"eyJhIjoxfQ==","data":{"#),
            (r#""topic":"T""#, r#""id":"2""#),
            (r#""id":"1""#, r#""id":"""#),
            (r#""source":"s","#, ""),
            (r#""time":"2024"#, r#""time":"noon"#),
            (r#""revision":7,"#, ""),
            (r#"{"a":1}"#, "[1]"),
            (r#""op":"Update""#, r#""op":"update""#),
        ] {
            let odd = body.replace(plainly, other);
            assert_ne!(odd, body);
            assert_eq!(plain(&headers, odd.as_bytes()), None, "{other}");
        }
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
    fn binary_mode_with_percent_encoding() {
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
        assert_eq!(refused(check(&headers, "not JSON")), "wrong-type");
        assert_eq!(refused(check(&headers[..3], "{}")), "not-a-cloudevent");
        let mut bad = headers;
        bad[1].1 = "%FF";
        assert_eq!(refused(check(&bad, "{}")), "not-a-cloudevent");
        bad[1].1 = "";
        assert_eq!(refused(check(&bad, "{}")), "not-a-cloudevent");
    }

    #[test]
    fn poison() {
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
                refused(check(&[("content-type", media_type)], body)),
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
            ("time", json!("noon")),
            ("extension", json!({})),
            ("data_base64", json!("e30=")),
        ] {
            assert_eq!(
                refused(structured(|event| event[member] = value)),
                "not-a-cloudevent",
                "{member}"
            );
        }
        let text = structured(|event| {
            event["datacontenttype"] = json!("text/plain");
            event["data"] = json!("hello");
        });
        assert_eq!(refused(text), "wrong-type");
    }
}
