//! What a sample leaves unsaid of its schema.
//!
//! A *place* is somewhere in the schema where it says what a value may be: each member of
//! `properties`, `items`, each of `prefixItems`, `additionalProperties` that is a schema, each
//! branch of `oneOf` and `anyOf`, `then` and `else`. A sample is complete when each place that can
//! be reached from the root holds some value of it that is not null. What is behind a `$ref` is one
//! place however many refer to it. Not asked for: every value of an `enum`, every type of a `type`
//! list, null. It judges what names fields and nothing else: whether the sample is valid is asked
//! elsewhere. A keyword that could name fields and is not understood here is a fault, never passed
//! over.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Keywords that say nothing of fields: rules on a value, and words about it.
const SILENT: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "$ref",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "x-ref",
    "writeOnly",
    "type",
    "enum",
    "const",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "required",
    "dependentRequired",
    "if",
    "not",
];

/// The places that no value of the sample is at, as pointers into the schema. Empty: the sample is
/// complete.
pub(crate) fn missing(schema: &Value, sample: &Value) -> Vec<String> {
    let mut walk = Walk {
        root: schema,
        named: BTreeSet::new(),
        filled: BTreeSet::new(),
        odd: BTreeSet::new(),
    };
    walk.name(schema, "");
    walk.fill(schema, "", sample);
    let missing = walk
        .named
        .difference(&walk.filled)
        .map(|place| format!("nothing is at {place}"));
    missing
        .chain(
            walk.odd
                .iter()
                .map(|place| format!("{place} is not understood")),
        )
        .collect()
}

struct Walk<'a> {
    root: &'a Value,
    named: BTreeSet<String>,
    filled: BTreeSet<String>,
    odd: BTreeSet<String>,
}

/// A schema right below another one, and to which of its values it applies.
enum Below<'a> {
    Member(&'a str),
    OtherMembers(Option<&'a Map<String, Value>>),
    Element(usize),
    ElementsFrom(usize),
    Always,
    /// Only where it holds.
    Branch,
    /// Only where this other schema holds, or does not.
    When(&'a Value, bool),
}

impl<'a> Walk<'a> {
    /// Collects the places that can be reached from here.
    fn name(&mut self, schema: &'a Value, at: &str) {
        for (place, below, kind) in self.below(schema, at) {
            // What applies always is no place of its own, and a branch without a schema names
            // nothing.
            let first = self.named.insert(place.clone());
            if matches!(kind, Below::Always) {
                self.filled.insert(place.clone());
            }
            if first {
                self.name(below, &place);
            }
        }
    }

    /// Marks the places that a value is at. It ends because each step goes down in the value, or up
    /// in what applies to it.
    fn fill(&mut self, schema: &'a Value, at: &str, value: &Value) {
        for (place, below, kind) in self.below(schema, at) {
            for value in self.values(&kind, below, value) {
                if !value.is_null() {
                    self.filled.insert(place.clone());
                }
                self.fill(below, &place, value);
            }
        }
    }

    fn values<'v>(&self, kind: &Below<'_>, below: &Value, value: &'v Value) -> Vec<&'v Value> {
        let here = |holds: bool| if holds { vec![value] } else { vec![] };
        match kind {
            Below::Member(name) => value.get(name).into_iter().collect(),
            Below::OtherMembers(named) => {
                let members = value.as_object().into_iter().flatten();
                members
                    .filter(|(name, _value)| !named.is_some_and(|named| named.contains_key(*name)))
                    .map(|(_name, value)| value)
                    .collect()
            }
            Below::Element(index) => value.get(index).into_iter().collect(),
            Below::ElementsFrom(index) => value
                .as_array()
                .into_iter()
                .flatten()
                .skip(*index)
                .collect(),
            Below::Always => here(true),
            Below::Branch => here(self.holds(below, value)),
            Below::When(condition, wanted) => here(self.holds(condition, value) == *wanted),
        }
    }

    /// Whether a part of the schema takes a value. References are to `$defs` of the root, which go
    /// along.
    fn holds(&self, part: &Value, value: &Value) -> bool {
        let mut part = part.clone();
        if let (Some(part), Some(defs)) = (part.as_object_mut(), self.root.get("$defs")) {
            part.insert("$defs".to_owned(), defs.clone());
        }
        jsonschema::draft202012::options()
            .build(&part)
            .expect("a part of a valid schema")
            .is_valid(value)
    }

    fn below(&mut self, schema: &'a Value, at: &str) -> Vec<(String, &'a Value, Below<'a>)> {
        let Some(keywords) = schema.as_object() else {
            return Vec::new();
        };
        let named = schema.get("properties").and_then(Value::as_object);
        let first_of_rest = schema
            .get("prefixItems")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let mut found = Vec::new();
        for (keyword, below) in keywords {
            let place = format!("{at}/{keyword}");
            match (keyword.as_str(), below) {
                ("properties", Value::Object(members)) => {
                    found.extend(members.iter().map(|(name, below)| {
                        (format!("{place}/{name}"), below, Below::Member(name))
                    }))
                }
                ("prefixItems", Value::Array(elements)) => found.extend(
                    elements
                        .iter()
                        .enumerate()
                        .map(|(n, below)| (format!("{place}/{n}"), below, Below::Element(n))),
                ),
                ("additionalProperties" | "items", Value::Bool(_)) => {}
                ("additionalProperties", below) => {
                    found.push((place, below, Below::OtherMembers(named)))
                }
                ("items", below) => found.push((place, below, Below::ElementsFrom(first_of_rest))),
                ("oneOf" | "anyOf", Value::Array(branches)) => found.extend(
                    branches
                        .iter()
                        .enumerate()
                        .map(|(n, below)| (format!("{place}/{n}"), below, Below::Branch)),
                ),
                ("allOf", Value::Array(parts)) => found.extend(
                    parts
                        .iter()
                        .enumerate()
                        .map(|(n, below)| (format!("{place}/{n}"), below, Below::Always)),
                ),
                ("then" | "else", below) => {
                    if let Some(condition) = schema.get("if") {
                        found.push((place, below, Below::When(condition, keyword == "then")));
                    }
                }
                ("$ref", Value::String(reference)) => {
                    let target = reference
                        .strip_prefix('#')
                        .and_then(|pointer| Some((pointer, self.root.pointer(pointer)?)));
                    match target {
                        Some((pointer, below)) => {
                            found.push((pointer.to_owned(), below, Below::Always))
                        }
                        None => _ = self.odd.insert(format!("{place} to {reference}")),
                    }
                }
                (silent, _) if SILENT.contains(&silent) => {}
                (_unknown, _) => _ = self.odd.insert(place),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A schema with every kind of place, and a sample that fills it.
    fn whole() -> (Value, Value) {
        let schema = json!({
            "type": "object",
            "properties": {
                "plain": {"type": "string"},
                "maybe": {"type": ["integer", "null"]},
                "deep": {"type": "object", "properties": {"deeper": {"properties": {"deepest": {}}}}},
                "list": {"type": "array", "items": {"properties": {"of": {}}}},
                "pair": {"prefixItems": [{"type": "integer"}, {"properties": {"second": {}}}], "items": false},
                "open": {"type": "object", "additionalProperties": {"properties": {"any": {}}}},
                "tree": {"$ref": "#/$defs/node"},
                "shapes": {"items": {"oneOf": [
                    {"properties": {"circle": {}}, "required": ["circle"]},
                    {"properties": {"square": {"properties": {"side": {}}}}, "required": ["square"]}
                ]}},
                "kinds": {"items": {
                    "properties": {"kind": {}},
                    "allOf": [{"if": {"properties": {"kind": {"const": "a"}}},
                        "then": {"properties": {"onlyA": {}}},
                        "else": {"properties": {"notA": {}}}}]
                }}
            },
            "$defs": {"node": {"properties": {"left": {"$ref": "#/$defs/node"}, "leaf": {"type": "string"}}}}
        });
        let sample = json!({
            "plain": "", "maybe": 1, "deep": {"deeper": {"deepest": false}}, "list": [{}, {"of": 1}],
            "pair": [1, {"second": 2}], "open": {"x": {"any": 1}}, "tree": {"left": {"leaf": "l"}},
            "shapes": [{"circle": 1}, {"square": {"side": 2}}],
            "kinds": [{"kind": "a", "onlyA": 1}, {"kind": "b", "notA": 1}]
        });
        (schema, sample)
    }

    #[test]
    fn a_complete_sample_lacks_nothing() {
        let (schema, sample) = whole();
        assert_eq!(missing(&schema, &sample), [""; 0]);
    }

    #[test]
    fn whatever_is_left_out_is_named() {
        for (pointer, instead, lacking) in [
            ("/plain", None, "/properties/plain"),
            ("/maybe", Some(json!(null)), "/properties/maybe"),
            ("/deep/deeper/deepest", None, "/properties/deepest"),
            ("/list", Some(json!([])), "/properties/list/items"),
            (
                "/list/1",
                Some(json!({})),
                "/properties/list/items/properties/of",
            ),
            ("/pair", Some(json!([1])), "/prefixItems/1"),
            (
                "/pair/1",
                Some(json!({})),
                "/prefixItems/1/properties/second",
            ),
            (
                "/open",
                Some(json!({})),
                "/properties/open/additionalProperties",
            ),
            (
                "/open/x",
                Some(json!({})),
                "/additionalProperties/properties/any",
            ),
            ("/tree/left", None, "/$defs/node/properties/left"),
            ("/tree/left", Some(json!({})), "/$defs/node/properties/leaf"),
            ("/shapes/0", None, "/oneOf/0"),
            (
                "/shapes/1/square",
                Some(json!({})),
                "/oneOf/1/properties/square/properties/side",
            ),
            ("/kinds/0/onlyA", None, "/then/properties/onlyA"),
            ("/kinds/1", None, "/else"),
        ] {
            let (schema, mut sample) = whole();
            let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
            match (sample.pointer_mut(parent).expect("there"), instead) {
                (parent, Some(value)) if parent.is_array() => {
                    parent[last.parse::<usize>().expect("an index")] = value
                }
                (Value::Array(elements), None) => {
                    _ = elements.remove(last.parse().expect("an index"))
                }
                (parent, Some(value)) => parent[last] = value,
                (parent, None) => _ = parent.as_object_mut().expect("an object").remove(last),
            }
            let missing = missing(&schema, &sample);
            assert!(
                missing.iter().any(|place| place.ends_with(lacking)),
                "without {pointer}: {missing:?}"
            );
        }
    }

    #[test]
    fn a_keyword_that_it_does_not_understand_is_a_fault() {
        for schema in [
            json!({"patternProperties": {"^x": {"properties": {"hidden": {}}}}}),
            json!({"$ref": "https://example.com/elsewhere"}),
            json!({"properties": {"a": {"dependentSchemas": {}}}}),
        ] {
            let missing = missing(&schema, &json!({"a": 1}));
            assert!(
                missing
                    .iter()
                    .any(|place| place.ends_with("is not understood")),
                "{schema}: {missing:?}"
            );
        }
    }
}
