//! Members of JSON that decide nothing: one of another form counts as absent, and never costs the
//! message that it is in. Nothing here decides which members those are.

use std::{fmt, str::FromStr};

use serde::{
    Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Reads a text of the form of `T`; every other value, and every other text, is `None`.
///
/// # Errors
/// When the text is not JSON.
pub fn text<'de, T: FromStr, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    matching(deserializer, |text| text.parse().ok())
}

/// Reads a whole number that `T` holds; every other value is `None`.
///
/// # Errors
/// When the text is not JSON.
pub fn number<'de, T: TryFrom<u64>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(Scalar {
        text: |_text: &str| None::<T>,
        number: |number: u64| T::try_from(number).ok(),
    })
}

/// Reads a text of which `read` makes a value; every other value is `None`. Nothing is stored
/// meanwhile: events are read with it.
///
/// # Errors
/// When the text is not JSON.
pub(crate) fn matching<'de, T, D: Deserializer<'de>>(
    deserializer: D,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(Scalar {
        text: read,
        number: |_number: u64| None::<T>,
    })
}

/// Gives texts and whole numbers to its functions, and skips everything else.
struct Scalar<F, N> {
    text: F,
    number: N,
}

impl<'de, T, F, N> Visitor<'de> for Scalar<F, N>
where
    F: FnOnce(&str) -> Option<T>,
    N: FnOnce(u64) -> Option<T>,
{
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok((self.text)(text))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: Error>(self, _value: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(value).ok().and_then(self.number))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok((self.number)(value))
    }

    fn visit_f64<E: Error>(self, _value: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use crate::{Crc, fleet::CheckIn};

    #[derive(Debug, PartialEq, Deserialize)]
    struct Message {
        #[serde(default, deserialize_with = "super::text")]
        crc: Option<Crc>,
        #[serde(default, deserialize_with = "super::text")]
        name: Option<String>,
        n: u8,
    }

    #[test]
    fn every_other_form_counts_as_absent() {
        let right = r#"{"crc":"6a4d3f2e","name":"a","n":1}"#;
        let read: Message = serde_json::from_str(right).expect("read");
        assert_eq!(
            (read.crc.is_some(), read.name.as_deref()),
            (true, Some("a"))
        );
        for other in [
            "null",
            "true",
            "-1",
            "18446744073709551615",
            "1.5",
            "[1,[2]]",
            r#"{"a":{"b":1}}"#,
        ] {
            let text = format!(r#"{{"crc":{other},"name":{other},"n":1}}"#);
            let expected = Message {
                crc: None,
                name: None,
                n: 1,
            };
            let value: serde_json::Value = serde_json::from_str(&text).expect("json");
            assert_eq!(
                serde_json::from_value::<Message>(value).expect("read"),
                expected
            );
            assert_eq!(
                crate::objects::from_str::<Message>(&text).expect("read"),
                expected
            );
        }
        for crc in ["", "6A4D3F2E", "6a4d3f2", "x"] {
            let text = format!(r#"{{"crc":"{crc}","n":1}}"#);
            assert_eq!(
                serde_json::from_str::<Message>(&text).expect("read").crc,
                None
            );
        }
        assert!(serde_json::from_str::<Message>(r#"{"crc":[1,"n":1}"#).is_err());
    }

    #[test]
    fn a_check_in_whose_version_and_protocol_are_both_wrong_is_valid() {
        for (protocol, expected) in [
            ("1", Some(1)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("-1", None),
            ("1.5", None),
            (r#""1""#, None),
            ("null", None),
            ("[1]", None),
            (r#"{"a":1}"#, None),
        ] {
            let text = format!(
                r#"{{"instance":"a","bootId":"b","intervalMs":1,"collections":{{}},"version":[1],"protocol":{protocol}}}"#
            );
            let read: CheckIn = crate::objects::from_str(&text).expect("read");
            assert_eq!((read.version, read.protocol), (None, expected), "{text}");
        }
    }
}
