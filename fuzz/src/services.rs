//! The decoders of services: the request of a sidecar, the name of a channel.

use broker::Names;
use replica::fuzz_support::{ReadEvent, read_event};
use state::SignedChange;

/// A request of a sidecar: the first line is the media type, the rest is the body. What the fast path
/// reads, the other path reads as the same change.
pub fn cloud_event(bytes: &[u8]) {
    let (media_type, body) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (&b"application/cloudevents+json"[..], bytes),
    };
    let ReadEvent { fast, slow } = read_event(media_type, body);
    let Some(fast) = fast else { return };
    let data = slow.expect("the other path reads what the fast path reads");
    let slow: SignedChange = serde_json::from_value(data).expect("a change");
    assert_eq!(fast, slow, "both ways read the same");
}

/// A name of a channel: what is read is a channel of this collection and document.
pub fn redis_channel(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let (prefix, channel) = text.split_once('\n').unwrap_or(("aura-config", text));
    let Ok(prefix) = prefix.parse() else { return };
    let names = Names::new(1, &prefix);
    let Some(read) = names.read(channel) else {
        return;
    };
    let forms = match &read.id {
        Some(id) => names.document_channels(&read.collection, id).to_vec(),
        None => vec![
            names.channel(&read.collection),
            names.bare_channel(&read.collection),
        ],
    };
    assert!(
        forms.iter().any(|form| form == channel),
        "{channel:?} is not one of {forms:?}"
    );
}
