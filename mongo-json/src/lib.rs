//! Conversion of canonical JSON to BSON and back, for rows of MongoDB. No number changes its value.
//! Nothing here connects, and nothing says which rows there are.
//!
//! An integer token that fits `i64` is an `Int64`, any other number a `Double`. BSON types that
//! JSON does not have are an error: a publisher never writes them.

use anyhow::{Context, bail};
use contract::canonical::{self, double};
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument};
use serde_json::Value;

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

fn bson(value: Value) -> anyhow::Result<Bson> {
    Ok(match value {
        Value::Null => Bson::Null,
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
        Value::Array(values) => Bson::Array(
            values
                .into_iter()
                .map(bson)
                .collect::<anyhow::Result<_>>()?,
        ),
        Value::Object(fields) => {
            let fields = fields
                .into_iter()
                .map(|(key, value)| Ok((key, bson(value)?)));
            Bson::Document(fields.collect::<anyhow::Result<_>>()?)
        }
    })
}

/// The JSON text of stored BSON, without deserialising it. It is canonical except for the order of
/// the fields, which is that of the row.
///
/// # Errors
/// When it holds a type that JSON does not have.
pub fn to_text(document: &RawDocument) -> anyhow::Result<String> {
    let mut text = Vec::with_capacity(document.as_bytes().len());
    write_object(document, &mut text)?;
    Ok(String::from_utf8(text)?)
}

fn write_object(document: &RawDocument, out: &mut Vec<u8>) -> anyhow::Result<()> {
    out.push(b'{');
    for (index, field) in document.iter().enumerate() {
        let (key, value) = field?;
        if index > 0 {
            out.push(b',');
        }
        write_string(key.as_str(), out)?;
        out.push(b':');
        write(value, out).with_context(|| format!("field {:?}", key.as_str()))?;
    }
    out.push(b'}');
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) -> anyhow::Result<()> {
    // Fast path: most strings contain nothing to escape, and checking that is faster than escaping.
    if text
        .bytes()
        .all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
    {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return Ok(());
    }
    Ok(serde_json::to_writer(out, text)?)
}

fn write(value: RawBsonRef<'_>, out: &mut Vec<u8>) -> anyhow::Result<()> {
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
        RawBsonRef::Document(document) => write_object(document, out)?,
        RawBsonRef::Array(values) => {
            out.push(b'[');
            for (index, value) in values.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(value?, out)?;
            }
            out.push(b']');
        }
        other => bail!("{other:?} has no JSON form"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use contract::CanonicalJson;
    use proptest::prelude::*;

    use super::*;

    fn round_trip(text: &str) -> CanonicalJson {
        let canonical = CanonicalJson::parse(text.as_bytes()).expect(text);
        let bytes = to_bson(canonical.as_str().as_bytes())
            .expect("an object")
            .to_vec()
            .expect("BSON");
        let text = to_text(RawDocument::from_bytes(&bytes).expect("BSON")).expect("JSON");
        CanonicalJson::parse(text.as_bytes()).expect("canonical")
    }

    #[test]
    fn numbers_and_unusual_keys_are_kept() {
        let text = r#"{"":1,"$numberLong":"1","$oid":{"$date":{"$serde_json::private::RawValue":"[1]"}},"$set":{"a.b":[9007199254740993,-9223372036854775808,1e20,1e300,0.1,-0,1e2]},"ü":null}"#;
        assert_eq!(
            round_trip(text),
            CanonicalJson::parse(text.as_bytes()).expect("json")
        );
    }

    proptest! {
        #[test]
        fn bson_keeps_every_number(integers in prop::collection::vec(any::<i64>(), 0..20), doubles in prop::collection::vec(any::<f64>(), 0..20)) {
            let doubles = doubles.iter().filter(|n| n.is_finite()).map(|n| format!("{n:e}"));
            let numbers: Vec<_> = integers.iter().map(i64::to_string).chain(doubles).collect();
            let text = format!(r#"{{"n":[{}]}}"#, numbers.join(","));
            prop_assert_eq!(round_trip(&text), CanonicalJson::parse(text.as_bytes()).expect("json"));
        }
    }
}
