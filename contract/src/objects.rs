//! JSON from outside, read strictly: where a type has named members, the text must have an object.
//!
//! Serde's derive also reads an array as a type with named members, value by value in their order.
//! So `["A", "Delete", "x"]` would be a change. [`from_slice`] and [`from_str`] refuse it, at any
//! depth. And serde does not look at the bytes of a member that the type does not have: here all of a
//! text is UTF-8 (RFC 8259 section 8.1), so that no two readers of it differ. They change nothing else
//! and know no type of this crate. Data of our own store and our own disk needs no such check.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor},
};
use serde_path_to_error::{Path, Segment};

use crate::canonical::{JsonError, pointer_token};

/// Reads a JSON text.
///
/// # Errors
/// When the text is not JSON, or is not of the type; also when it has an array where the type has
/// named members, or a byte that is not UTF-8.
pub fn from_slice<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    from_str(str::from_utf8(json).map_err(serde_json::Error::custom)?)
}

/// A member that is there has a value, also if that is `null`: for `deserialize_with`, beside `default`.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// As [`from_slice`], with the place of the fault.
///
/// # Errors
/// As [`from_slice`]. The pointer names the value that does not fit its type, the value that lacks a
/// member, or the member that is not known. It is empty when the text is not JSON.
pub fn from_slice_located<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, JsonError> {
    let text = str::from_utf8(json).map_err(|error| JsonError {
        pointer: String::new(),
        reason: error.to_string(),
    })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(Objects(&mut deserializer));
    let (pointer, error) = match read {
        Ok(value) => match deserializer.end() {
            Ok(()) => return Ok(value),
            Err(error) => (String::new(), error),
        },
        Err(error) if error.inner().is_data() => (pointer(error.path()), error.into_inner()),
        Err(error) => (String::new(), error.into_inner()),
    };
    Err(JsonError {
        pointer,
        reason: error.to_string(),
    })
}

/// A path of serde as a JSON pointer (RFC 6901).
pub fn pointer(path: &Path) -> String {
    let token = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key: name } | Segment::Enum { variant: name } => {
            format!("/{}", pointer_token(name))
        }
        Segment::Unknown => String::new(),
    };
    path.iter().map(token).collect()
}

/// As [`from_slice`], of a text that is known to be UTF-8.
///
/// # Errors
/// As [`from_slice`].
pub fn from_str<'a, T: Deserialize<'a>>(json: &'a str) -> serde_json::Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = T::deserialize(Objects(&mut deserializer))?;
    deserializer.end().map(|()| value)
}

/// A deserializer, or a part of one, that reads types with named members from objects only.
///
/// It passes every call on, and asks for a map where a type asks for a struct.
#[derive(Debug)]
pub struct Objects<T>(pub T);

/// Passes calls without further arguments on to the inner deserializer.
macro_rules! pass_on {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(Objects(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Objects<D> {
    type Error = D::Error;

    pass_on! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_option deserialize_unit deserialize_seq
        deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Objects(visitor))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, Objects(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Objects(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(len, Objects(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, len, Objects(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, Objects(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Passes scalar values on to the inner visitor.
macro_rules! visit {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: serde::de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.0.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Objects<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    visit! {
        visit_bool(bool) visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64) visit_i128(i128)
        visit_u8(u8) visit_u16(u16) visit_u32(u32) visit_u64(u64) visit_u128(u128) visit_f32(f32)
        visit_f64(f64) visit_char(char) visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Objects(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Objects(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Objects(access))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Objects(access))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Objects(access))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Objects<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Objects(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Objects<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Objects(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Objects<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Objects(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Objects(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Objects<A> {
    type Error = A::Error;
    type Variant = Objects<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.0.variant_seed(Objects(seed))?;
        Ok((value, Objects(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Objects<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Objects(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Objects(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Objects(visitor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CanonicalJson, Change, EventData, Head,
        fleet::{CheckIn, RestoreEpochRequest, SettledPoint},
        set::ChangeSetRequest,
    };

    #[test]
    fn an_array_is_no_object_at_any_depth() {
        for json in [r#"[1,"0000000000000000"]"#, "[]"] {
            assert!(from_slice::<SettledPoint>(json.as_bytes()).is_err());
            assert!(from_str::<SettledPoint>(json).is_err());
        }
        assert!(serde_json::from_str::<SettledPoint>(r#"[1,"0000000000000000"]"#).is_ok());
        assert!(from_str::<CheckIn>(r#"["a","b",null,1,null,{}]"#).is_err());
        let change = r#"["A","Create","x",{"n":1},null]"#;
        assert!(
            from_str::<ChangeSetRequest>(&format!(r#"{{"changes":[{change}]}}"#)).is_err(),
            "an item of a list"
        );
        let report = r#"{"instance":"a","bootId":"b","intervalMs":1,"collections":
            {"A":{"revision":1,"known":1,"state":"current","settled":[1,"0000000000000000"]}}}"#;
        assert!(from_str::<CheckIn>(report).is_err(), "an optional member");
        assert!(from_str::<RestoreEpochRequest>("[]").is_err());
        assert!(from_str::<RestoreEpochRequest>(r#"{"adpot": true}"#).is_err());
        assert!(from_str::<Vec<Head>>("[[]]").is_err(), "a list is a list");
    }

    #[test]
    fn a_byte_that_is_not_utf_8_is_refused_also_in_a_member_that_is_not_read() {
        #[derive(Debug, Deserialize)]
        struct Read {
            #[serde(rename = "a")]
            _a: u8,
        }
        let text = br#"{"a":1,"b":"2026-01"}"#;
        assert!(from_slice::<Read>(text).is_ok() && from_slice_located::<Read>(text).is_ok());
        let changed = text.map(|byte| if byte == b'-' { 0xb1 } else { byte });
        assert!(serde_json::from_slice::<Read>(&changed).is_ok());
        let error = from_slice::<Read>(&changed).expect_err("refused");
        assert!(error.to_string().contains("utf-8"), "{error}");
        let located = from_slice_located::<Read>(&changed).expect_err("refused");
        assert_eq!(located.pointer, "");
    }

    #[test]
    fn a_fault_is_located() {
        let check_in = |members: &str| {
            let json = format!(r#"{{"instance":"a","bootId":"b","intervalMs":1,{members}}}"#);
            from_slice_located::<CheckIn>(json.as_bytes()).map_err(|error| error.pointer)
        };
        for (members, pointer) in [
            (r#""collections":7"#, "/collections"),
            (r#""collections":{"A":[]}"#, "/collections/A"),
            (r#""collections":{"A":{}}"#, "/collections/A"),
            (
                r#""collections":{"A":{"revision":"x"}}"#,
                "/collections/A/revision",
            ),
            (r#""collections":{},"baseUrl":7"#, "/baseUrl"),
            (
                r#""collections":{},"handlers":[{"name":7}]"#,
                "/handlers/0/name",
            ),
            (r#""known":1"#, ""),
            (r#""collections":{"A":x}"#, ""),
            (r#""collections":{}}"#, ""),
        ] {
            assert_eq!(check_in(members), Err(pointer.to_owned()), "{members}");
        }
        assert!(check_in(r#""collections":{}"#).is_ok());
        let unknown = from_slice_located::<RestoreEpochRequest>(br#"{"a/~":7}"#);
        assert_eq!(unknown.expect_err("refused").pointer, "/a~1~0");
    }

    #[test]
    fn everything_else_is_read_as_before() {
        let record = r#"{"collection":"A","op":"Update","id":"a","revision":7,"epoch":"00000001-1","lastSet":0,
            "configData":{"n":9007199254740993,"list":[1,[2]],"x":{"$serde_json::private::RawValue":"[1]"}},"crc":"00000000",
            "changeSet":{"id":"s","parts":[{"collection":"A","first":7,"last":7}]},
            "time":"2026-11-21T09:00:00.123Z","count":1,"digest":"0000000000000000","userId":"u"}"#;
        assert_eq!(
            from_str::<Change>(record).expect("read"),
            serde_json::from_str(record).expect("read")
        );
        assert_eq!(
            from_slice::<EventData>(record.as_bytes()).expect("read"),
            serde_json::from_str(record).expect("read")
        );
        assert_eq!(
            from_str::<CanonicalJson>(r#"{"b":1,"a":[2]}"#)
                .expect("read")
                .as_str(),
            r#"{"a":[2],"b":1}"#
        );
        assert!(
            from_str::<SettledPoint>(r#"{"revision":1,"digest":"0000000000000000"} x"#).is_err()
        );
    }
}
