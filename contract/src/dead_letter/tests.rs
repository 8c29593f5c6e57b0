//! How letters are named, and what they keep of foreign bytes.

use super::*;

#[test]
fn a_letter_is_known_by_source_and_id_of_its_event() {
    let event = |source: &str, id: &str, more: &str| {
        let text = format!(
            r#"{{"specversion":"1.0","source":"{source}","id":"{id}","topic":"A","data":{{"collection":"A",
            "id":"a","revision":7,"epoch":"9f86d081-1"}}{more}}}"#
        );
        let summary = EventSummary::of(text.as_bytes());
        (DeadLetterId::of(&summary, text.as_bytes()), summary)
    };
    let (first, summary) = event("s", "1", "");
    let (moved, _) = event("s", "1", r#","expiration":"2026-01-01T00:00:00Z""#);
    assert_eq!(first, moved, "what a sidecar adds makes no other letter");
    assert_ne!(first, event("s", "2", "").0);
    assert_ne!(event("ab", "c", "").0, event("a", "bc", "").0);
    assert_eq!(first.to_string().parse(), Ok(first));
    assert_eq!(
        (summary.revision, summary.document, summary.topic.as_deref()),
        (Some(7), "a".parse().ok(), Some("A"))
    );
}

#[test]
fn what_is_no_event_is_known_by_its_bytes() {
    for message in [&b"<config/>"[..], b"\xff\xfe", b"[1]", b"", b"{\"id\":7}"] {
        let summary = EventSummary::of(message);
        assert_eq!(summary, EventSummary::default());
        let id = DeadLetterId::of(&summary, message);
        assert_eq!(id, DeadLetterId(xxh3_128(message)));
    }
}

#[test]
fn bare_data_names_its_document() {
    let summary = EventSummary::of(br#"{"collection":"A","op":"Create","id":"a","revision":3}"#);
    assert_eq!(summary.document, "a".parse().ok());
    assert_eq!((summary.revision, summary.event_id), (Some(3), None));
}

#[test]
fn an_original_keeps_its_bytes_up_to_its_bound() {
    for bytes in [&b"{}"[..], b"\xff\x00", b""] {
        assert_eq!(Original::of(bytes).bytes().as_deref(), Ok(bytes));
    }
    let long = "é".repeat(MAX_ORIGINAL);
    let text = Original::of(format!("a{long}").as_bytes())
        .text
        .expect("a text");
    assert_eq!(text.len(), MAX_ORIGINAL - 1, "whole characters");
    let binary = [0xff; MAX_ORIGINAL + 1];
    let kept = Original::of(&binary).bytes().expect("base64");
    assert_eq!(kept.len(), MAX_ORIGINAL);
}

#[test]
fn a_reason_of_a_later_version_is_read() {
    let read: DeadLetterReason = serde_json::from_str("\"lost\"").expect("read");
    assert_eq!(read, DeadLetterReason::Other);
    for reason in DeadLetterReason::ALL {
        assert_eq!(reason.as_str().parse(), Ok(reason));
        assert_eq!(
            serde_json::to_string(&reason).expect("json"),
            format!("{:?}", reason.as_str())
        );
    }
}

#[test]
fn an_event_without_a_collection_is_of_its_topic() {
    let id_only = br#"{"specversion":"1.0","source":"s","id":"1","topic":"A","data":{"id":"a"}}"#;
    let summary = EventSummary::of(id_only);
    assert_eq!(summary.collection, "A".parse().ok());
    let bare = EventSummary::of(br#"{"id":"a"}"#).on_topic(Some("B"));
    assert_eq!(bare.collection, "B".parse().ok());
    let named = EventSummary::of(br#"{"collection":"A","id":"a"}"#).on_topic(Some("B"));
    assert_eq!(named.collection, "A".parse().ok());
    assert_eq!(named.topic.as_deref(), Some("B"));
}
