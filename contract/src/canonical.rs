//! The canonical form of a JSON value: RFC 8785 with one exception for integers.
//!
//! Two replicas hold the same value exactly when they hold the same bytes, so values are compared,
//! hashed and stored as canonical text. A text that two readers could understand differently is
//! refused, with the JSON pointer (RFC 6901) to the fault. This module never validates what a
//! document *means*; schemas do.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

mod check;
mod number;
mod value;

pub use check::is_canonical;
pub use value::{PlainValue, value};

use crate::ids::Crc;

/// Deepest nesting of objects and arrays in a document.
pub const MAX_DEPTH: usize = 64;

/// A sidecar re-encodes JSON numbers as doubles; integers up to this one are not changed by that.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// A JSON value in its canonical form. Cloning shares the text.
///
/// Members are sorted by UTF-16 code units, strings escape only what they must escape, and a number is
/// - its digits, when its token has neither fraction nor exponent and fits `i64` (also beyond 2^53;
///   `-0` becomes `0`);
/// - else the nearest double in the form of ECMAScript (RFC 8785 section 3.2.2.3). A number that
///   is not the same again within the 17 digits of a double is refused.
#[derive(Clone)]
pub struct CanonicalJson(Arc<RawValue>);

/// Why a JSON text cannot be a document, and the place of the fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (at {pointer:?})")]
pub struct JsonError {
    /// JSON pointer to the value at fault; empty means the whole text.
    pub pointer: String,
    /// The fault, in words.
    pub reason: String,
}

impl CanonicalJson {
    /// Reads any JSON text (UTF-8) and converts it to its canonical form.
    ///
    /// # Errors
    /// Refuses text that is not JSON, duplicate keys, NUL in a key, lone surrogates, nesting beyond
    /// [`MAX_DEPTH`], and numbers that a double does not hold: those beyond its range, decimals
    /// with digits that it cannot give back, and integers beyond `i64` unless they already are the
    /// canonical digits of a double (`1e20` is written `100000000000000000000`, and must be readable
    /// again).
    pub fn parse(json: &[u8]) -> Result<Self, JsonError> {
        let raw: &RawValue = serde_json::from_slice(json)
            .map_err(|error| JsonError::at(&Path::Root, not_json(&error)))?;
        if is_canonical(raw.get()) {
            Ok(Self(raw.to_owned().into()))
        } else {
            Self::convert(raw)
        }
    }

    fn convert(raw: &RawValue) -> Result<Self, JsonError> {
        let mut text = String::with_capacity(raw.get().len());
        write_value(raw, &Path::Root, 0, &mut text)?;
        Self::from_canonical(text)
    }

    /// Takes a text that [`CanonicalJson::as_str`] returned earlier, for example from our own store.
    /// It checks that the text is JSON and not that it is canonical: the checksum shows damage.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn from_canonical(text: String) -> Result<Self, JsonError> {
        let owned = RawValue::from_string(text)
            .map_err(|error| JsonError::at(&Path::Root, not_json(&error)))?;
        Ok(Self(owned.into()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The canonical form of a value in memory.
    ///
    /// # Errors
    /// As [`CanonicalJson::parse`].
    pub fn of(value: &Value) -> Result<Self, JsonError> {
        Self::parse(value.to_string().as_bytes())
    }

    /// The value in memory, see [`value()`].
    ///
    /// # Errors
    /// When a text that was taken with [`CanonicalJson::from_canonical`] cannot be read.
    pub fn to_value(&self) -> serde_json::Result<Value> {
        value(self.as_str().as_bytes())
    }

    /// CRC-32C over the canonical text.
    pub fn crc(&self) -> Crc {
        Crc::of(self.as_str().as_bytes())
    }

    /// Whether the value is a JSON object, as every document is.
    pub fn is_object(&self) -> bool {
        self.as_str().starts_with('{')
    }

    /// Whether a sidecar forwards the value unchanged: every integer is within ±(2^53−1).
    pub fn survives_doubles(&self) -> bool {
        // Fractions and exponents are doubles already; only a run of digits can lose precision.
        numbers(self.as_str()).all(|token| {
            token.contains(['.', 'e'])
                || token
                    .parse::<f64>()
                    .is_ok_and(|number| number.abs() <= MAX_SAFE_INTEGER)
        })
    }
}

impl PartialEq for CanonicalJson {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for CanonicalJson {}

impl fmt::Debug for CanonicalJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for CanonicalJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CanonicalJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        if is_canonical(raw.get()) {
            Ok(Self(raw.into()))
        } else {
            Self::convert(&raw).map_err(serde::de::Error::custom)
        }
    }
}

/// The digits of a double as ECMAScript writes them; `None` when it is not finite.
pub fn double(number: f64) -> Option<String> {
    number
        .is_finite()
        .then(|| ryu_js::Buffer::new().format_finite(number).to_owned())
}

impl JsonError {
    fn at(path: &Path<'_>, reason: impl Into<String>) -> Self {
        let mut pointer = String::new();
        path.write(&mut pointer);
        Self {
            pointer,
            reason: reason.into(),
        }
    }
}

fn not_json(error: &serde_json::Error) -> String {
    format!("not a JSON value: {error}")
}

/// A name as a part of a JSON pointer: the two characters that it escapes, in this order (RFC 6901
/// section 3).
pub(crate) fn pointer_token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The place of the writer in the value, as a linked list on the stack. It is formatted as a JSON
/// pointer only when there is an error.
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Element(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn write(&self, pointer: &mut String) {
        match self {
            Path::Root => {}
            Path::Member(parent, key) => {
                parent.write(pointer);
                pointer.push('/');
                pointer.push_str(&pointer_token(key));
            }
            Path::Element(parent, index) => {
                parent.write(pointer);
                pointer.push('/');
                pointer.push_str(&index.to_string());
            }
        }
    }
}

fn write_value(
    raw: &RawValue,
    path: &Path<'_>,
    depth: usize,
    out: &mut String,
) -> Result<(), JsonError> {
    let token = raw.get();
    match token.as_bytes().first() {
        Some(b'{' | b'[') if depth == MAX_DEPTH => Err(JsonError::at(
            path,
            format!("nested deeper than {MAX_DEPTH} levels"),
        )),
        Some(b'{') => write_object(&members(raw, path)?, path, depth + 1, out),
        Some(b'[') => {
            let Elements(elements) = read(raw, path)?;
            out.push('[');
            for (index, element) in elements.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(element, &Path::Element(path, index), depth + 1, out)?;
            }
            out.push(']');
            Ok(())
        }
        Some(b'"') => {
            let text: String = read(raw, path)?;
            write_string(&text, path, out)
        }
        Some(b'-' | b'0'..=b'9') => write_number(token, path, out),
        // `true`, `false` and `null` have one form only.
        _ => {
            out.push_str(token);
            Ok(())
        }
    }
}

fn write_object(
    members: &BTreeMap<Utf16Order, &RawValue>,
    path: &Path<'_>,
    depth: usize,
    out: &mut String,
) -> Result<(), JsonError> {
    out.push('{');
    for (index, (Utf16Order(key), value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(key, path, out)?;
        out.push(':');
        write_value(value, &Path::Member(path, key), depth, out)?;
    }
    out.push('}');
    Ok(())
}

fn write_string(text: &str, path: &Path<'_>, out: &mut String) -> Result<(), JsonError> {
    // serde_json escapes exactly what RFC 8785 section 3.2.2.2 requires, in the same form.
    let quoted =
        serde_json::to_string(text).map_err(|error| JsonError::at(path, not_json(&error)))?;
    out.push_str(&quoted);
    Ok(())
}

fn write_number(token: &str, path: &Path<'_>, out: &mut String) -> Result<(), JsonError> {
    let digits = number::canonical(token).map_err(|reason| JsonError::at(path, reason))?;
    out.push_str(&digits);
    Ok(())
}

fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue, path: &Path<'_>) -> Result<T, JsonError> {
    serde_json::from_str(raw.get()).map_err(|error| JsonError::at(path, not_json(&error)))
}

/// The members of an object, sorted; refuses what could be read in two ways.
fn members<'a>(
    raw: &'a RawValue,
    path: &Path<'_>,
) -> Result<BTreeMap<Utf16Order, &'a RawValue>, JsonError> {
    let Members(pairs) = read(raw, path)?;
    let mut sorted = BTreeMap::new();
    for (key, value) in pairs {
        if key.contains('\0') {
            return Err(JsonError::at(&Path::Member(path, &key), "NUL in a key"));
        }
        if let Some(_first) = sorted.insert(Utf16Order(key.clone()), value) {
            return Err(JsonError::at(&Path::Member(path, &key), "duplicate key"));
        }
    }
    Ok(sorted)
}

/// A key that sorts by UTF-16 code units (RFC 8785 section 3.2.3).
#[derive(PartialEq, Eq)]
struct Utf16Order(String);

impl Ord for Utf16Order {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.encode_utf16().cmp(other.0.encode_utf16())
    }
}

impl PartialOrd for Utf16Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// All members in the order of the text, with duplicates, which a map type would hide.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Members(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }
        deserializer.deserialize_seq(Collect)
    }
}

/// The number tokens of a canonical text, in order.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?;
            rest = &rest[start..];
            if let Some(string) = rest.strip_prefix('"') {
                rest = &string[end_of_string(string)?..];
            } else {
                let end = rest.find([',', ']', '}']).unwrap_or(rest.len());
                let (token, tail) = rest.split_at(end);
                rest = tail;
                return Some(token);
            }
        }
    })
}

/// The length up to and including the closing quote; the opening quote stands before `text`.
fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes()
        .position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        })
        .map(|quote| quote + 1)
}

#[cfg(test)]
mod tests;
