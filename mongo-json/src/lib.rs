//! Conversion of canonical JSON to BSON and back, for rows of MongoDB. No number changes its value.
//! And what is required of a server ([`server`]). Nothing here connects, and nothing says which rows
//! there are.
//!
//! An integer token that fits `i64` is an `Int64`, any other number a `Double`. BSON types that
//! JSON does not have are an error: a publisher never writes them.

use anyhow::{Context, bail};
use contract::canonical::{self, double};
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, raw::RawIter};
use serde_json::Value;

pub mod server;

/// The BSON of a document's canonical text.
///
/// # Errors
/// When the text is not a JSON object.
pub fn to_bson(config: &[u8]) -> anyhow::Result<Document> {
    match bson(canonical::value(config)?)? {
        Bson::Document(document) => Ok(document),
        other => bail!("a document is an object, not {other}"),
    }
}

// Every document that is allowed must fit the stack of any thread. Containers therefore take one
// small frame for each level, and leaves one of their own.
fn bson(value: Value) -> anyhow::Result<Bson> {
    match value {
        Value::Array(values) => {
            let mut array = Vec::with_capacity(values.len());
            for value in values {
                array.push(bson(value)?);
            }
            Ok(Bson::Array(array))
        }
        Value::Object(fields) => {
            let mut document = Document::new();
            for (key, value) in fields {
                document.insert(key, bson(value)?);
            }
            Ok(Bson::Document(document))
        }
        leaf => bson_leaf(leaf),
    }
}

#[inline(never)]
fn bson_leaf(value: Value) -> anyhow::Result<Bson> {
    Ok(match value {
        Value::Bool(value) => Bson::Boolean(value),
        Value::String(value) => Bson::String(value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Bson::Int64(integer),
            None => Bson::Double(
                number
                    .as_f64()
                    .context("a JSON number is a double when it is not an integer")?,
            ),
        },
        Value::Null => Bson::Null,
        Value::Array(_) | Value::Object(_) => bail!("a container is not a leaf"),
    })
}

/// Appends the JSON text of stored BSON, without deserialising it. It is canonical except for the order
/// of the fields, which is that of the row.
///
/// # Errors
/// When it holds a type that JSON does not have. A part of the text may have been appended.
pub fn write_text(document: &RawDocument, out: &mut Vec<u8>) -> anyhow::Result<()> {
    out.push(b'{');
    let mut open = vec![Open::new(document.iter_elements(), b'}')];
    write_all(&mut open, out).with_context(|| {
        let path: Vec<_> = open.iter().map(|container| container.key).collect();
        format!("field {:?}", path.join("."))
    })
}

/// A document or an array of which a part is written.
struct Open<'a> {
    elements: RawIter<'a>,
    /// The character after the last element.
    end: u8,
    /// The key of the element that is written, in an array its index.
    key: &'a str,
    begun: bool,
}

impl<'a> Open<'a> {
    fn new(elements: RawIter<'a>, end: u8) -> Self {
        Self {
            elements,
            end,
            key: "",
            begun: false,
        }
    }
}

/// Writes the rest of what is open. A row that was made by hand may be nested deeper than any document,
/// so this does not call itself. After an error the open containers are the path to it.
fn write_all(open: &mut Vec<Open<'_>>, out: &mut Vec<u8>) -> anyhow::Result<()> {
    while let Some(container) = open.last_mut() {
        let Some(element) = container.elements.next() else {
            out.push(container.end);
            open.pop();
            continue;
        };
        let element = element?;
        container.key = element.key().as_str();
        if container.begun {
            out.push(b',');
        }
        container.begun = true;
        if container.end == b'}' {
            write_string(container.key, out)?;
            out.push(b':');
        }
        match element.value()? {
            RawBsonRef::Document(document) => {
                out.push(b'{');
                open.push(Open::new(document.iter_elements(), b'}'));
            }
            RawBsonRef::Array(values) => {
                out.push(b'[');
                open.push(Open::new(values.iter_elements(), b']'));
            }
            leaf => write_leaf(leaf, out)?,
        }
    }
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) -> anyhow::Result<()> {
    // Fast path: most strings contain nothing to escape, and checking that is faster than escaping.
    // All bytes are looked at, because the compiler then compares many of them at once.
    let is_escaped = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    if !text.bytes().fold(false, |any, byte| any | is_escaped(byte)) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return Ok(());
    }
    Ok(serde_json::to_writer(out, text)?)
}

fn write_leaf(value: RawBsonRef<'_>, out: &mut Vec<u8>) -> anyhow::Result<()> {
    match value {
        RawBsonRef::Null => out.extend_from_slice(b"null"),
        RawBsonRef::Boolean(value) => serde_json::to_writer(out, &value)?,
        RawBsonRef::String(value) => write_string(value, out)?,
        // A publisher writes Int64 only; a person who edits a row may write Int32.
        RawBsonRef::Int32(value) => serde_json::to_writer(out, &value)?,
        RawBsonRef::Int64(value) => serde_json::to_writer(out, &value)?,
        RawBsonRef::Double(value) => {
            out.extend_from_slice(
                double(value)
                    .context("a number that is not finite")?
                    .as_bytes(),
            );
        }
        other => bail!("{other:?} has no JSON form"),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
