//! Texts of few characters: names, numbers, URLs, and what logs show of them.

use std::{
    fmt::{Debug, Display},
    str::FromStr,
};

use contract::{
    CanonicalJson, CollectionName, Crc, Digest, DocumentId, Epoch, Expected, Proof, SecretUrl,
    dead_letter::DeadLetterId,
    expected::Version,
    feed::FeedScope,
    fleet::Transport,
    history::SnapshotName,
    text::{Escaped, is_hidden},
};

/// A text that is read, shown and read again is the same.
pub(crate) fn round<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(first) = text.parse::<T>() {
        let shown = first.to_string();
        let second = shown.parse::<T>().ok();
        assert_eq!(second.as_ref(), Some(&first), "{shown:?}");
    }
}

/// Names, revisions, epochs, checksums, conditions and positions.
pub fn names(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    round::<CollectionName>(text);
    round::<DocumentId>(text);
    round::<Epoch>(text);
    round::<Crc>(text);
    round::<Digest>(text);
    round::<Proof>(text);
    round::<Version>(text);
    drop(text.parse::<Expected>());
    round::<SnapshotName>(text);
    round::<DeadLetterId>(text);
    drop(text.parse::<Transport>());
    for scope in [
        FeedScope::Several,
        FeedScope::One("A".parse().expect("a name")),
    ] {
        if let Ok((epoch, since)) = scope.position(text) {
            let id = scope.id(epoch, &since);
            assert_eq!(scope.position(&id).ok(), Some((epoch, since)), "{id}");
        }
        drop(scope.since(text));
    }
}

/// Canonical JSON is canonical: reading it again changes nothing, by either way.
pub fn canonical(bytes: &[u8]) {
    let Ok(first) = CanonicalJson::parse(bytes) else {
        return;
    };
    let text = first.as_str();
    assert_eq!(CanonicalJson::parse(text.as_bytes()).as_ref(), Ok(&first));
    assert_eq!(
        CanonicalJson::from_canonical(text.to_owned()).as_ref(),
        Ok(&first)
    );
    let value = contract::canonical::value(text.as_bytes()).expect("canonical JSON is JSON");
    assert_eq!(CanonicalJson::of(&value).as_ref(), Ok(&first));
}

/// No text makes a line of a log two lines, or moves its cursor.
pub fn escaped(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let shown = Escaped(&text).to_string();
    assert!(!shown.chars().any(is_hidden), "{shown:?}");
    let shown = Escaped(&*text).to_string();
    assert_eq!(Escaped(&shown).to_string(), shown);
}

/// The password of a URL is in no form of it that is shown. The password is put in here, so that it is
/// known.
pub fn secret_url(bytes: &[u8]) {
    const PASSWORD: &str = "Zq7wXk";
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if text.contains(PASSWORD) {
        return;
    }
    let with_password = text.replacen("pass", PASSWORD, 1);
    if !with_password.contains(PASSWORD) {
        return;
    }
    if let Ok(url) = with_password.parse::<SecretUrl>()
        && url.expose().password() == Some(PASSWORD)
    {
        assert!(!url.to_string().contains(PASSWORD), "{url}");
        assert!(!format!("{url:?}").contains(PASSWORD), "{url:?}");
    }
    if let Err(error) = SecretUrl::http_base(&with_password) {
        assert!(!error.to_string().contains(PASSWORD), "{error}");
    }
}
