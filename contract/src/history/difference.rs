//! The difference of two values: a bounded list of JSON pointers with the value before and after.
//!
//! Objects are compared member by member and arrays position by position, so an element that was
//! inserted moves those behind it. It is for people and decides nothing.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    canonical::{CanonicalJson, pointer_token},
    objects::present,
};

/// Most differences of two values that are listed.
pub const MAX_DIFFERENCES: usize = 64;
/// Most bytes of all pointers and values that are listed, approximately.
pub const MAX_DIFF_BYTES: usize = 16 << 10;
/// Longest value that is shown as it is, in bytes of JSON.
pub const MAX_SHOWN: usize = 1 << 10;

/// A value that is different at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// JSON pointer (RFC 6901); empty for the whole document.
    pub pointer: String,
    /// The value before; absent when there was none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<Value>))]
    pub before: Option<CanonicalJson>,
    /// The value after; absent when it was removed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<Value>))]
    pub after: Option<CanonicalJson>,
    /// Whether a value above 1,024 bytes is given as a text: the beginning of its JSON, and `…`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abridged: bool,
}

/// The differences of two values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// The first ones, in the order of the members.
    pub differences: Vec<Difference>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Compares two values of a document; `None` where it does not exist. At most [`MAX_DIFFERENCES`]
/// with at most [`MAX_DIFF_BYTES`] are listed.
pub fn difference(before: Option<&CanonicalJson>, after: Option<&CanonicalJson>) -> Diff {
    let mut list = List::default();
    match (before, after) {
        (Some(before), Some(after)) if before == after => {}
        (Some(before), Some(after)) => match (before.to_value(), after.to_value()) {
            (Ok(before), Ok(after)) => list.compare(&mut String::new(), &before, &after),
            // A stored text that cannot be read is shown as it is.
            _unreadable => list.add("", Some(before), Some(after)),
        },
        (None, None) => {}
        (before, after) => list.add("", before, after),
    }
    list.diff
}

#[derive(Default)]
struct List {
    diff: Diff,
    bytes: usize,
}

impl List {
    fn compare(&mut self, pointer: &mut String, before: &Value, after: &Value) {
        if self.diff.truncated || before == after {
            return;
        }
        match (before, after) {
            (Value::Object(before), Value::Object(after)) => {
                for (name, old) in before {
                    self.descend(pointer, &pointer_token(name), Some(old), after.get(name));
                }
                for (name, new) in after {
                    if !before.contains_key(name) {
                        self.descend(pointer, &pointer_token(name), None, Some(new));
                    }
                }
            }
            (Value::Array(before), Value::Array(after)) => {
                for index in 0..before.len().max(after.len()) {
                    let (old, new) = (before.get(index), after.get(index));
                    self.descend(pointer, &index.to_string(), old, new);
                    if self.diff.truncated {
                        return;
                    }
                }
            }
            (before, after) => self.add_values(pointer, Some(before), Some(after)),
        }
    }

    fn descend(
        &mut self,
        pointer: &mut String,
        token: &str,
        before: Option<&Value>,
        after: Option<&Value>,
    ) {
        let parent = pointer.len();
        pointer.push('/');
        pointer.push_str(token);
        match (before, after) {
            (Some(before), Some(after)) => self.compare(pointer, before, after),
            (before, after) => self.add_values(pointer, before, after),
        }
        pointer.truncate(parent);
    }

    fn add_values(&mut self, pointer: &str, before: Option<&Value>, after: Option<&Value>) {
        // Not written when it would not be listed: a value may be large.
        if self.diff.truncated || self.diff.differences.len() == MAX_DIFFERENCES {
            self.diff.truncated = true;
            return;
        }
        let canonical = |value: &Value| CanonicalJson::of(value).ok();
        let (before, after) = (before.and_then(canonical), after.and_then(canonical));
        self.add(pointer, before.as_ref(), after.as_ref());
    }

    fn add(
        &mut self,
        pointer: &str,
        before: Option<&CanonicalJson>,
        after: Option<&CanonicalJson>,
    ) {
        let difference = Difference {
            pointer: pointer.to_owned(),
            abridged: [before, after].into_iter().flatten().any(is_long),
            before: before.and_then(shown),
            after: after.and_then(shown),
        };
        let size = |value: &Option<CanonicalJson>| value.as_ref().map_or(0, |it| it.as_str().len());
        self.bytes += pointer.len() + size(&difference.before) + size(&difference.after);
        if self.bytes > MAX_DIFF_BYTES {
            self.diff.truncated = true;
        } else {
            self.diff.differences.push(difference);
        }
    }
}

fn is_long(value: &CanonicalJson) -> bool {
    value.as_str().len() > MAX_SHOWN
}

/// The value, or the beginning of its text when it is long.
fn shown(value: &CanonicalJson) -> Option<CanonicalJson> {
    if !is_long(value) {
        return Some(value.clone());
    }
    let json = value.as_str();
    let start = &json[..json.floor_char_boundary(MAX_SHOWN)];
    CanonicalJson::of(&Value::String(format!("{start}…"))).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> CanonicalJson {
        CanonicalJson::parse(text.as_bytes()).expect("JSON")
    }

    fn listed(before: &str, after: &str) -> Vec<(String, String, String)> {
        let diff = difference(Some(&json(before)), Some(&json(after)));
        let text =
            |value: Option<CanonicalJson>| value.map_or("-".to_owned(), |it| it.as_str().into());
        let differences = diff.differences.into_iter();
        differences
            .map(|each| (each.pointer, text(each.before), text(each.after)))
            .collect()
    }

    #[test]
    fn each_place_that_is_different_is_listed_with_both_values() {
        let found = listed(
            r#"{"a":{"b":1,"c":[1,2,3]},"same":true,"gone":null}"#,
            r#"{"a":{"b":2,"c":[1,5]},"same":true,"x/y~z":{"new":1}}"#,
        );
        let expected = [
            ("/a/b", "1", "2"),
            ("/a/c/1", "2", "5"),
            ("/a/c/2", "3", "-"),
            ("/gone", "null", "-"),
            ("/x~1y~0z", "-", r#"{"new":1}"#),
        ];
        let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_document_that_comes_or_goes_is_one_difference() {
        let value = json(r#"{"a":1}"#);
        let created = difference(None, Some(&value)).differences;
        assert_eq!((created.len(), created[0].pointer.as_str()), (1, ""));
        assert_eq!(
            (&created[0].before, &created[0].after),
            (&None, &Some(value.clone()))
        );
        let deleted = difference(Some(&value), None).differences;
        assert_eq!(
            (&deleted[0].before, &deleted[0].after),
            (&Some(value), &None)
        );
    }

    #[test]
    fn a_long_value_is_shown_by_its_beginning_and_many_differences_are_cut() {
        let long = json(&format!(r#"{{"a":"{}"}}"#, "ä".repeat(2_000)));
        let diff = difference(None, Some(&long));
        assert!(diff.differences[0].abridged && !diff.truncated);
        let shown = diff.differences[0]
            .after
            .as_ref()
            .expect("a value")
            .as_str();
        assert!(
            shown.ends_with("…\"") && shown.len() < MAX_SHOWN + 16,
            "{shown}"
        );

        let many: Vec<_> = (0..1_000).map(|index| format!(r#""k{index}":1"#)).collect();
        let diff = difference(
            Some(&json("{}")),
            Some(&json(&format!("{{{}}}", many.join(",")))),
        );
        assert_eq!(
            (diff.differences.len(), diff.truncated),
            (MAX_DIFFERENCES, true)
        );
    }

    proptest! {
        #[test]
        fn equal_values_alone_have_no_difference(a in 0..4_u8, b in 0..4_u8, nested in any::<bool>()) {
            let value = |n: u8| json(&if nested { format!(r#"{{"a":[{{"b":{n}}}]}}"#) } else { format!(r#"{{"a":{n}}}"#) });
            let diff = difference(Some(&value(a)), Some(&value(b)));
            prop_assert_eq!(diff.differences.is_empty(), a == b);
            prop_assert!(!diff.truncated);
        }
    }
}
