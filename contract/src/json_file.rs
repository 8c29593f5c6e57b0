//! Files with JSON that people give: what a file is when it is not the JSON that is expected, in
//! words. A parser would say "expected value at line 1 column 1" of each of them.
//!
//! A byte order mark of UTF-8 is taken. Nothing here opens files or decides about a value.

use serde::de::IgnoredAny;

/// What a file is instead of the JSON that is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonFileError {
    /// Nothing but white space.
    #[error("the file is empty: expected {0}")]
    Empty(Expected),
    /// UTF-16 or UTF-32, with or without a byte order mark.
    #[error("the file is in {0}: expected UTF-8")]
    Encoding(&'static str),
    /// Compressed or an archive.
    #[error("the file is compressed ({0}): unpack it first")]
    Compressed(&'static str),
    /// Bytes that are not UTF-8.
    #[error("the file is not UTF-8 from byte {0}")]
    NotUtf8(usize),
    /// A JSON array.
    #[error("the file is a JSON array: expected {0}{remedy}", remedy = .0.of_array())]
    Array(Expected),
    /// A JSON text that is no object.
    #[error("the file is a JSON value that is no object: expected {0}")]
    Scalar(Expected),
    /// Looks like YAML.
    #[error("the file looks like YAML: expected {0}")]
    Yaml(Expected),
    /// Something else.
    #[error("the file does not begin with {{, so it is no JSON object: expected {0}")]
    Other(Expected),
    /// Several values where one is expected.
    #[error("the file has several JSON values, one after the other: expected {0}")]
    Several(Expected),
    /// An object over several lines where each line is one.
    #[error("an object is spread over several lines: expected {0} (`jq -c .` writes that)")]
    Spread(Expected),
}

/// What a file has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// One JSON object.
    Object,
    /// One JSON object in each line.
    Lines,
}

impl Expected {
    /// How to make it of an array, if a command does.
    fn of_array(self) -> &'static str {
        match self {
            Self::Object => "",
            Self::Lines => " (`jq -c '.[]'` writes that)",
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Object => "one JSON object",
            Self::Lines => "one JSON object in each line",
        })
    }
}

/// The text of a file that has to be one JSON object, without a byte order mark. A syntax error inside
/// the object is left to the parser.
///
/// # Errors
/// What the file is instead.
pub fn object(bytes: &[u8]) -> Result<&str, JsonFileError> {
    let bytes = begin(bytes, Expected::Object)?;
    let text =
        std::str::from_utf8(bytes).map_err(|error| JsonFileError::NotUtf8(error.valid_up_to()))?;
    if text.trim().is_empty() {
        return Err(JsonFileError::Empty(Expected::Object));
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match (values.next(), values.next()) {
        (Some(Ok(_)), Some(Ok(_))) => Err(JsonFileError::Several(Expected::Object)),
        _ => Ok(text),
    }
}

/// The first line of a file of lines, without a byte order mark.
///
/// # Errors
/// What the file is instead, as far as its first line shows it.
pub fn first_line(line: &[u8]) -> Result<&[u8], JsonFileError> {
    let line = begin(line, Expected::Lines)?;
    if line.trim_ascii() == b"{" {
        return Err(JsonFileError::Spread(Expected::Lines));
    }
    Ok(line)
}

/// Checks the beginning of a file; white space alone passes.
fn begin(bytes: &[u8], expected: Expected) -> Result<&[u8], JsonFileError> {
    let encoding = match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] | [0, 0, 0, _, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [_, 0, 0, 0, ..] => Some("UTF-32"),
        [0, _, ..] | [_, 0, ..] => Some("UTF-16"),
        _ => None,
    };
    if let Some(encoding) = encoding {
        return Err(JsonFileError::Encoding(encoding));
    }
    let packed = match bytes {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [b'P', b'K', 3, 4, ..] => Some("zip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("xz"),
        _ => None,
    };
    if let Some(packed) = packed {
        return Err(JsonFileError::Compressed(packed));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match bytes.trim_ascii() {
        [] | [b'{', ..] => Ok(bytes),
        [b'[', ..] => Err(JsonFileError::Array(expected)),
        text if is_yaml(text) => Err(JsonFileError::Yaml(expected)),
        text if is_json(text) => Err(JsonFileError::Scalar(expected)),
        _ => Err(JsonFileError::Other(expected)),
    }
}

/// Whether a text is one JSON value.
fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Whether the first line is a marker, a comment, an item, or a key of YAML.
fn is_yaml(text: &[u8]) -> bool {
    let line = text
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default()
        .trim_ascii_end();
    let key = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (key, rest) = line.split_at(colon);
        let plain = key
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-\"'.".contains(byte));
        Some(plain && !key.is_empty() && (rest.len() == 1 || rest[1] == b' '))
    };
    line.starts_with(b"---")
        || line.starts_with(b"#")
        || line.starts_with(b"%YAML")
        || line.starts_with(b"- ")
        || key(line).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_object_is_named() {
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, named) in [
            (&b""[..], "is empty: expected one JSON object"),
            (b"\xef\xbb\xbf \n", "is empty"),
            (b"\xff\xfe{\0}\0", "in UTF-16: expected UTF-8"),
            (b"\xfe\xff\0{\0}", "in UTF-16"),
            (&utf16, "in UTF-16"),
            (b"\0{\0}", "in UTF-16"),
            (b"\xff\xfe\0\0{\0\0\0", "in UTF-32"),
            (b"{\0\0\0}\0\0\0", "in UTF-32"),
            (b"\x1f\x8b\x08\0", "compressed (gzip)"),
            (b"PK\x03\x04", "compressed (zip)"),
            (b"{\"a\":\"\xe9\"}", "not UTF-8 from byte 6"),
            (b" [1]", "a JSON array"),
            (b"42", "no object"),
            (b"\"text\"", "no object"),
            (b"null\n", "no object"),
            (b"---\na: 1\n", "looks like YAML"),
            (b"# comment\n", "looks like YAML"),
            (b"name: x\n", "looks like YAML"),
            (b"nested:\n  a: 1\n", "looks like YAML"),
            (b"- a\n", "looks like YAML"),
            (b"<html>", "does not begin with {"),
            (b"http://x", "does not begin with {"),
            (b"{}\n{}\n", "several JSON values"),
        ] {
            let error = object(bytes).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_taken() {
        assert_eq!(object(b"\xef\xbb\xbf{\"a\":1}\n"), Ok("{\"a\":1}\n"));
        assert_eq!(first_line(b"\xef\xbb\xbf{}"), Ok(&b"{}"[..]));
        // The parser says where the mistake is.
        assert_eq!(object(b"{\"a\":}"), Ok("{\"a\":}"));
    }

    #[test]
    fn the_first_line_shows_what_a_file_of_lines_is_not() {
        for (line, named) in [
            (
                &b"["[..],
                "a JSON array: expected one JSON object in each line",
            ),
            (b"{\r", "spread over several lines"),
            (b"a: 1", "YAML"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"\x1f\x8b", "gzip"),
        ] {
            let error = first_line(line).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
        assert_eq!(first_line(b"  "), Ok(&b"  "[..]));
    }
}
