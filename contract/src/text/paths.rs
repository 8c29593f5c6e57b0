//! Paths of files as errors and logs show them. The setting of a file is easily given the content of
//! the file instead, which may be a token or a key: such a text is never shown.
//!
//! It is only ever part of a text: nothing is decided with it, and no file is opened.

use std::{
    fmt::{self, Display},
    path::Path,
};

use super::{Escaped, is_hidden};

/// Longest path (`PATH_MAX` of Linux) and longest name in it (`NAME_MAX`), in bytes.
const LONGEST_PATH: usize = 4_096;
const LONGEST_NAME: usize = 255;
/// Texts shorter than this, and those with fewer changes, are not judged by their letters: a part of a
/// path may be random too, for example the name of a temporary folder.
const SHORTEST_RANDOM: usize = 20;
const FEWEST_CHANGES: usize = 8;

/// A path as it may be shown: itself, or `…` with a remedy when the text is more likely the content of
/// a file.
pub struct ShownPath<'a>(pub &'a Path);

impl Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_str() {
            Some(text) if is_content(text) => {
                f.write_str("… (the content is given, a path is expected)")
            }
            _ => Escaped(self.0.display()).fmt(f),
        }
    }
}

/// As [`Display`]: a structure that has a path must not show a token either.
impl fmt::Debug for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// Whether a text that stands for a path looks like the content of a file: JSON, PEM, a token or a
/// key. A real path may look so too, so no file is refused for it.
pub fn is_content(text: &str) -> bool {
    let begins = ["{", "[", "\"", "cct_", "eyJ", "Bearer "];
    let trimmed = text.trim_start();
    begins.iter().any(|begin| trimmed.starts_with(begin))
        || trimmed.contains("-----")
        || text.contains(is_hidden)
        || text.len() > LONGEST_PATH
        || text.split('/').any(|name| name.len() > LONGEST_NAME)
        || text
            .split(|other: char| !is_of_base64(other))
            .any(is_random)
}

/// The letters of Base64, Base64url and hexadecimal numbers, and so of tokens and keys.
fn is_of_base64(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "+/-_=".contains(letter)
}

/// Whether upper case, lower case and digits change as in random text: there they do at half of the
/// places, approximately, and in words at few.
fn is_random(text: &str) -> bool {
    let kind = |letter: u8| match letter {
        b'0'..=b'9' => 0,
        b'a'..=b'z' => 1,
        b'A'..=b'Z' => 2,
        _ => 3,
    };
    let pairs = text.as_bytes().windows(2);
    let is_change = |pair: &&[u8]| {
        let [one, two] = [kind(pair[0]), kind(pair[1])];
        one != two && one != 3 && two != 3
    };
    let changes = pairs.filter(is_change).count();
    text.len() >= SHORTEST_RANDOM && changes >= FEWEST_CHANGES && changes * 4 >= text.len()
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine,
        prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
    };
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_is_never_shown() {
        for content in [
            "{\"active\": \"2026-11\", \"keys\": {}}",
            " [1]",
            "cct_XehVyKLvh3",
            "token=cct_vkCHu1XcHu1X9yZ0aB3dE5fG7hJ",
            "Bearer hunter2",
            "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln",
            "-----BEGIN PRIVATE KEY-----MC4C-----END PRIVATE KEY-----",
            "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g",
            "pXh2R3ZpXh2R3ZaQ4r8uT1w0ZbVnKs7LmEoYdCfGhJk=",
            "/Xh2R3Zp/h2R3ZaQ4r8uT1w0ZbVnKs7LmEoYdCfGhJk=",
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "a\nb",
        ] {
            let shown = ShownPath(content.as_ref());
            assert_eq!(
                format!("{shown} {shown:?}"),
                ["… (the content is given, a path is expected)"; 2].join(" "),
                "{content}"
            );
        }
        assert!(is_content(&"a".repeat(256)) && is_content(&"a/".repeat(4_096)));
    }

    #[test]
    fn paths_are_shown() {
        for path in [
            "tokens",
            "ops.token",
            "./keys/event-keys.pem",
            "C3PO-R2D2.pem",
            "/etc/confcast/tls/tls.crt",
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "/mnt/secrets/..2026_11_28_20_22_34.1234567890/signing-key.pem",
            "/nix/store/wadmyh3c5ys0pqvkxjcbr8i6wklfmsx9-confcast-keys/share/keys.json",
            "/tmp/.tmpaB3dE6/secret-keys",
            "/home/anna/Projects/ConfigService2/deploy/Production/TokensOfReplicas.jsonl",
            "größer/配置",
        ] {
            assert_eq!(ShownPath(path.as_ref()).to_string(), path);
        }
    }

    proptest! {
        #[test]
        fn random_keys_and_tokens_are_content(key in any::<[u8; 32]>()) {
            for text in [BASE64_STANDARD.encode(key), BASE64_URL_SAFE_NO_PAD.encode(key)] {
                prop_assert!(is_content(&text), "{}", text);
            }
        }
    }
}
