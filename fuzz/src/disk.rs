//! What is read from a disk or a store.

use contract::secrets::sealed_text;
use secrets::{Keyring, Sealed};
use state::Image;
use xxhash_rust::xxh3::xxh3_64;

/// The last known good configuration, as it is on the disk.
pub fn image(bytes: &[u8]) {
    if let Ok(image) = Image::read(bytes) {
        for (_name, collection) in image.root().collections() {
            assert_eq!(collection.count(), collection.documents().count() as u64);
        }
    }
}

/// The same with a last line that proves the lines before, so that what is behind the checksum is
/// reached.
pub fn image_proven(bytes: &[u8]) {
    let mut lines = bytes.to_vec();
    if !lines.ends_with(b"\n") {
        lines.push(b'\n');
    }
    let count = lines.iter().filter(|byte| **byte == b'\n').count() - 1;
    let end = format!(
        "{{\"end\":true,\"count\":{count},\"xxh3\":\"{:016x}\"}}\n",
        xxh3_64(&lines)
    );
    lines.extend_from_slice(end.as_bytes());
    image(&lines);
}

/// A sealed value: one that was not sealed with the key is never opened.
pub fn sealed(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if let Ok(value) = serde_json::from_str(text) {
        drop(sealed_text(&value).map(str::to_owned));
    }
    if let Ok(first) = text.parse::<Sealed>() {
        assert_eq!(first.to_string().parse::<Sealed>().ok(), Some(first));
    }
}

/// A file of keys.
pub fn keyring(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        drop(Keyring::parse(text));
    }
}
