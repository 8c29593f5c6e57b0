//! Names of callers: every text from outside as a name that logs, audits and headers can carry.

use std::{fmt::Write, sync::Arc};

use crate::Refused;

/// Longest name of a caller, in bytes: as long as the id of a user in a change record.
const MAX_NAME: usize = 128;

/// `KIND:NAME` in visible ASCII. Every other byte, and `%`, is written as `%XX`, so that two names
/// never become the same.
///
/// # Errors
/// When it is empty or too long.
pub(crate) fn visible(kind: &str, name: &str) -> Result<Arc<str>, Refused> {
    let mut text = format!("{kind}:");
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a string takes every text");
        }
        if text.len() > MAX_NAME {
            let detail = format!("the name in the credential is longer than {MAX_NAME} bytes");
            return Err(Refused::Invalid(detail));
        }
    }
    if name.is_empty() {
        return Err(Refused::Invalid(
            "the name in the credential is empty".to_owned(),
        ));
    }
    Ok(text.into())
}

/// Whether a name is of the part that a prefix names. What follows the prefix is a path without empty and
/// dot segments, which would name another part (RFC 3986 section 5.2.4); no SPIFFE ID has them (SPIFFE-ID
/// section 2.2).
pub(crate) fn is_of(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix);
    rest.is_some_and(|rest| {
        let mut segments = rest.split('/');
        segments.all(|segment| !["", ".", ".."].contains(&segment))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_visible_ascii_and_never_become_the_same() {
        let name = |text: &str| visible("jwt", text).map(|name| name.to_string());
        assert_eq!(name("a@b.c").as_deref(), Ok("jwt:a@b.c"));
        assert_eq!(name("é b").as_deref(), Ok("jwt:%C3%A9%20b"));
        assert_ne!(name("a b"), name("a%20b"));
        assert!(name("").is_err() && name(&"a".repeat(125)).is_err());
        assert!(name(&"a".repeat(124)).is_ok());
    }
}
