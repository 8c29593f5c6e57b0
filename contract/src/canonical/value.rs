//! JSON texts as values in memory, without members of a private meaning.
//!
//! `serde_json` exchanges raw texts and numbers with itself as objects with a private member name,
//! such as `$serde_json::private::RawValue`, and its `Value` takes such a member of foreign JSON
//! for its own. Here every member is a member. This is the only way from foreign JSON to a
//! [`Value`]: no other code deserialises one. Nothing here checks that the text is canonical.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Reads a JSON text. Of repeated members the last one counts.
///
/// # Errors
/// When the text is not JSON, or is nested deeper than 128 levels.
pub fn value(json: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(json).map(|PlainValue(value)| value)
}

/// A [`Value`] as part of a type that is deserialised.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlainValue(pub Value);

impl<'de> Deserialize<'de> for PlainValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build).map(Self)
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // A JSON text has no number that is not finite.
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number beyond the range of a double"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(PlainValue(element)) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((key, PlainValue(value))) = map.next_entry()? {
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_member_name_of_a_library_is_a_member_like_any_other() {
        for name in [
            "$serde_json::private::RawValue",
            "$serde_json::private::Number",
            "$__toml_private_datetime",
        ] {
            for content in [r#""[1]""#, r#""1""#, "7", "{}"] {
                let text =
                    format!(r#"{{"a":{{"{name}":{content}}},"n":[{{"{name}":{content}}}]}}"#);
                let value = value(text.as_bytes()).expect(&text);
                assert_eq!(value.to_string(), text);
            }
        }
    }

    #[test]
    fn all_other_texts_are_read_as_serde_json_reads_them() {
        for text in [
            r#"{"b":[null,true,-1,18446744073709551615,1.5,1e300,"é\n"],"a":{},"a":{"x":[]}}"#,
            "[]",
            "-0",
            "-0.0",
            "12345678901234567890123",
        ] {
            let expected: Value = serde_json::from_str(text).expect(text);
            assert_eq!(value(text.as_bytes()).expect(text), expected);
        }
        for wrong in ["", "{", "[1,]", "1 2", "1e400", "\"\\ud800\""] {
            value(wrong.as_bytes()).expect_err(wrong);
        }
    }
}
