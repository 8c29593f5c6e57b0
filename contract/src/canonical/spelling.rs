//! Whether a JSON text is canonical already, in one pass: most texts that reach a replica are.
//!
//! It may say no to a canonical text, never yes to another one: whoever hears no gives the text its
//! spelling anew. It reads no text that is not known to be JSON.

use super::{MAX_DEPTH, double};

/// Digits that fit `i64`, whatever they are.
const SAFE_DIGITS: usize = 18;

/// Whether a text, which must be JSON, is certainly canonical. Keys that are not plain ASCII are
/// left to those who can sort them.
pub fn is_canonical(json: &str) -> bool {
    let bytes = json.as_bytes();
    // Of each object that is open: where its last key was. Of an array: nothing.
    let mut open: Vec<Option<&[u8]>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' if open.len() == MAX_DEPTH => return false,
            b'{' => open.push(Some(&[])),
            b'[' => open.push(None),
            b'}' | b']' => _ = open.pop(),
            b',' | b':' => {}
            b'"' => {
                let Some(end) = string(bytes, at) else {
                    return false;
                };
                let text = &bytes[at..end];
                at = end + 1;
                if bytes.get(at) == Some(&b':') {
                    let Some(Some(last)) = open.last_mut() else {
                        return false;
                    };
                    // An empty key comes first or twice; the last key is empty before there is one.
                    let first = bytes[..end - text.len() - 1].ends_with(b"{");
                    let sorted = first || *last < text;
                    if !sorted || !text.iter().all(|byte| byte.is_ascii() && *byte != b'\\') {
                        return false;
                    }
                    *last = text;
                }
            }
            b'-' | b'0'..=b'9' => {
                let length = bytes[at..]
                    .iter()
                    .position(|byte| matches!(byte, b',' | b']' | b'}'));
                let end = length.map_or(bytes.len(), |length| at + length);
                if !is_canonical_number(&bytes[at - 1..end]) {
                    return false;
                }
                at = end;
            }
            b't' | b'n' => at += 3,
            b'f' => at += 4,
            _space => return false,
        }
    }
    true
}

/// Where a string that begins at `at` ends, if each of its escapes is spelled as it must be (RFC
/// 8785 section 3.2.2.2).
fn string(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes.get(at + 1) {
            _ if bytes.get(at) == Some(&b'"') => return Some(at),
            Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
            // Which control characters have no shorter form, and in which case, is asked of those
            // who write them.
            _longer => return None,
        }
    }
}

fn is_canonical_number(token: &[u8]) -> bool {
    if token
        .iter()
        .all(|byte| byte.is_ascii_digit() || *byte == b'-')
    {
        token.len() <= SAFE_DIGITS && token != b"-0"
    } else {
        let number = std::str::from_utf8(token)
            .ok()
            .and_then(|token| token.parse().ok());
        number
            .and_then(double)
            .is_some_and(|digits| digits.as_bytes() == token)
    }
}
