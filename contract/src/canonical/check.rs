//! A single-pass check whether a JSON text is canonical already. Most texts that reach a replica are.
//!
//! The answer `false` may be wrong, the answer `true` never is: on `false` the caller converts the
//! text. The input must be valid JSON; this module does not check that.

use super::{MAX_DEPTH, double};

/// Every number of this many digits fits `i64`.
const SAFE_DIGITS: usize = 18;

/// Whether a text, which must be JSON, is certainly canonical. A text with a key that is not plain
/// ASCII is answered `false`, because such keys sort by UTF-16 code units.
pub fn is_canonical(json: &str) -> bool {
    let bytes = json.as_bytes();
    // For each open object its last key; for each open array `None`.
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
                    // The last key of a new object is empty, so an empty first key must be told from
                    // a repeated one.
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

/// The index of the closing quote of a string that begins at `at`, if all its escapes have the
/// canonical form (RFC 8785 section 3.2.2.2).
fn string(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes.get(at + 1) {
            _ if bytes.get(at) == Some(&b'"') => return Some(at),
            Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
            // `\u` escapes: only the writer knows which of them are canonical.
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
