//! Canonical JSON to BSON and back, without loss: what MongoDB keeps is what was written, number for number.
//!
//! An integer token that fits `i64` is an `Int64`, any other number a `Double`. Types that JSON does not have are
//! refused: only this program writes these documents.

use anyhow::{Context, bail};
use contract::{CanonicalJson, canonical::double};
use mongodb::bson::{Bson, Document};
use serde_json::Value;

/// The BSON of a document's canonical text.
///
/// # Errors
/// When the text is not a JSON object.
pub(super) fn to_bson(config: &[u8]) -> anyhow::Result<Document> {
    match bson(serde_json::from_slice(config)?)? {
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
            None => Bson::Double(number.as_f64().context("a JSON number is a double when it is not an integer")?),
        },
        Value::Array(values) => Bson::Array(values.into_iter().map(bson).collect::<anyhow::Result<_>>()?),
        Value::Object(members) => {
            let members = members.into_iter().map(|(key, value)| Ok((key, bson(value)?)));
            Bson::Document(members.collect::<anyhow::Result<_>>()?)
        }
    })
}

/// The canonical text of stored BSON.
///
/// # Errors
/// When it holds a type that JSON does not have.
pub(super) fn to_text(document: &Document) -> anyhow::Result<CanonicalJson> {
    let mut text = String::new();
    write_object(document, &mut text)?;
    Ok(CanonicalJson::parse(text.as_bytes())?)
}

fn write_object(document: &Document, out: &mut String) -> anyhow::Result<()> {
    out.push('{');
    for (index, (key, value)) in document.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(key)?);
        out.push(':');
        write(value, out).with_context(|| format!("member {key:?}"))?;
    }
    out.push('}');
    Ok(())
}

fn write(value: &Bson, out: &mut String) -> anyhow::Result<()> {
    match value {
        Bson::Null => out.push_str("null"),
        Bson::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        Bson::String(value) => out.push_str(&serde_json::to_string(value)?),
        Bson::Int32(value) => out.push_str(&value.to_string()),
        Bson::Int64(value) => out.push_str(&value.to_string()),
        Bson::Double(value) => out.push_str(&double(*value).context("a number that is not finite")?),
        Bson::Document(document) => write_object(document, out)?,
        Bson::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(value, out)?;
            }
            out.push(']');
        }
        other => bail!("{other:?} has no JSON form"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(text: &str) -> CanonicalJson {
        let canonical = CanonicalJson::parse(text.as_bytes()).expect(text);
        let bytes = to_bson(canonical.as_str().as_bytes()).expect("an object").to_vec().expect("BSON");
        to_text(&Document::from_reader(bytes.as_slice()).expect("BSON")).expect("JSON")
    }

    #[test]
    fn numbers_and_odd_keys_survive() {
        let text = r#"{"":1,"$set":{"a.b":[9007199254740993,-9223372036854775808,1e20,1e300,0.1,-0,1e2]},"ü":null}"#;
        assert_eq!(there_and_back(text), CanonicalJson::parse(text.as_bytes()).expect("json"));
    }

    proptest! {
        #[test]
        fn bson_keeps_every_number(integers in prop::collection::vec(any::<i64>(), 0..20), doubles in prop::collection::vec(any::<f64>(), 0..20)) {
            let doubles = doubles.iter().filter(|n| n.is_finite()).map(|n| format!("{n:e}"));
            let numbers: Vec<_> = integers.iter().map(i64::to_string).chain(doubles).collect();
            let text = format!(r#"{{"n":[{}]}}"#, numbers.join(","));
            prop_assert_eq!(there_and_back(&text), CanonicalJson::parse(text.as_bytes()).expect("json"));
        }
    }
}
