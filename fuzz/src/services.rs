//! The decoders of services: the request of a sidecar, the name of a channel, the header of a caller.

use std::{io, path::Path, sync::LazyLock};

use auth::{Anonymous, Authenticator, Files, Presented, Setup};
use broker::Names;
use replica::fuzz_support::{ReadEvent, read_event};
use state::SignedChange;
use tokio::runtime::{Builder, Runtime};

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

const ISSUERS: &str = r#"{"issuers":[{"name":"a","issuer":"https://issuer.example","audience":"confcast",
    "algorithms":["RS256","ES256","EdDSA"],"jwksFile":"keys","grants":[]}]}"#;

fn file(path: &Path, _most: u64) -> io::Result<Vec<u8>> {
    if path == Path::new("issuers") {
        Ok(ISSUERS.into())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn no_client(_authorities: Option<&Path>) -> Result<reqwest::Client, String> {
    Err("there is no client".to_owned())
}

/// A header `Authorization`: nobody knows a key or a token, so nobody is known.
pub fn authorization(bytes: &[u8]) {
    static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
        let setup = Setup {
            anonymous: Anonymous::Refused,
            files: Files {
                issuers: Some("issuers".into()),
                ..Files::default()
            },
            read: file,
            http: no_client,
        };
        Authenticator::new(setup).expect("an authenticator")
    });
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let runtime = Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime")
    });
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let bearer = format!("Bearer {text}");
    for authorization in [text, &bearer] {
        let presented = Presented {
            authorization: Some(authorization),
            ..Presented::default()
        };
        let decided = RUNTIME.block_on(AUTHENTICATOR.authenticate(presented));
        if let Ok(identity) = decided {
            panic!("{text:?} is taken for {identity:?}");
        }
    }
}
