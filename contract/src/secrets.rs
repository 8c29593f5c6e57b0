//! Secret values in documents: the keywords `x-secret` and `x-secret-ref` of a JSON Schema, and the
//! two forms that stand in a document for a value which nobody may read there.
//!
//! `"x-secret": true` says that the value at its place, of any kind, is sealed before it is stored or
//! sent: the document then has `{"$secret": "<text>"}` there. `"x-secret-ref": true` says that the
//! value names an entry of a secret store: `{"$secretRef": {"store": "vault", "key": "db"}}`.
//!
//! A place counts whatever the value is, also where its subschema applies to some values only:
//! otherwise a change of another member would turn a secret into plain text.
//!
//! Nothing here encrypts or decrypts, and no secret is known here.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    places::{Places, PlacesError, overlap},
    references::ReferenceRules,
};

/// The keyword of a value that is sealed.
pub const SECRET: &str = "x-secret";
/// The keyword of a reference to a secret store.
pub const SECRET_REF: &str = "x-secret-ref";
/// The only member of a sealed value.
pub const SEALED_MEMBER: &str = "$secret";
/// The only member of a reference to a secret store.
pub const REF_MEMBER: &str = "$secretRef";
/// How a sealed text begins: the version of its form.
pub const SEALED_PREFIX: &str = "v1.";
/// Most bytes of each name in a [`SecretRef`].
const MAX_NAME: usize = 256;

/// Where the values of a schema are secret, or refer to secrets.
#[derive(Debug)]
pub struct SecretPlaces(Places<()>);

impl SecretPlaces {
    /// The places of `x-secret`; `None` when a schema has none.
    ///
    /// # Errors
    /// When a keyword is neither `true` nor `false`, or the schema has parts that cannot be followed.
    pub fn sealed(schema: &Value) -> Result<Option<Self>, PlacesError> {
        Self::of(schema, SECRET)
    }

    /// The places of `x-secret-ref`; `None` when a schema has none.
    ///
    /// # Errors
    /// As [`Self::sealed`].
    pub fn references(schema: &Value) -> Result<Option<Self>, PlacesError> {
        Self::of(schema, SECRET_REF)
    }

    fn of(schema: &Value, keyword: &'static str) -> Result<Option<Self>, PlacesError> {
        let places = Places::of_schema(schema, keyword, |value| match value {
            Value::Bool(true) => Ok(Some(())),
            Value::Bool(false) => Ok(None),
            _other => Err("is neither true nor false"),
        })?;
        Ok(places.map(Self))
    }

    /// Pointer to a value that refers to a document (`x-ref`) and is at or within one of these places,
    /// of the same schema. Nothing checks such a reference. `*` stands for a name or a position that
    /// the schema does not name.
    pub fn with_reference(&self, references: &ReferenceRules) -> Option<String> {
        overlap(&self.0, &references.0)
    }

    /// Pointer to a value that is secret and names an entry of a secret store, of the same schema.
    pub fn with_secret_ref(&self, references: &Self) -> Option<String> {
        overlap(&self.0, &references.0)
    }

    /// Pointers (RFC 6901) to the values at these places, in order. Of a place within another one
    /// only the outer one counts.
    pub fn of_value(&self, value: &Value) -> Vec<String> {
        let mut found = BTreeSet::new();
        self.0.visit(value, |pointer, _value, ()| {
            found.insert(pointer.to_owned());
        });
        let outer = found.iter().filter(|pointer| {
            let mut ancestors = pointer
                .match_indices('/')
                .map(|(at, _slash)| &pointer[..at]);
            !ancestors.any(|ancestor| found.contains(ancestor))
        });
        outer.cloned().collect()
    }
}

/// Whether a pointer is the same as another one, or below it.
pub fn is_within(pointer: &str, outer: &str) -> bool {
    let below = pointer.strip_prefix(outer);
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The text of a sealed value; `None` for any other value. Whether the text can be opened is not
/// known.
pub fn sealed_text(value: &Value) -> Option<&str> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    let text = members.get(SEALED_MEMBER)?.as_str()?;
    text.starts_with(SEALED_PREFIX).then_some(text)
}

/// Pointers to all sealed values of a document, in order, with their texts. No schema is needed: the
/// form describes itself.
pub fn sealed_values(value: &Value) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    collect(value, &mut String::new(), &mut |pointer, value| {
        let text = sealed_text(value);
        if let Some(text) = text {
            found.push((pointer.to_owned(), text));
        }
        text.is_some()
    });
    found
}

/// Pointers to the sealed values of a document that are at no place of these: their schema said
/// `x-secret` there when they were written.
pub fn misplaced(places: Option<&SecretPlaces>, document: &Value) -> Vec<String> {
    let sealed = sealed_values(document);
    if sealed.is_empty() {
        return Vec::new();
    }
    let secrets = places.map_or_else(Vec::new, |places| places.of_value(document));
    let mut pointers: Vec<_> = sealed.into_iter().map(|(pointer, _text)| pointer).collect();
    pointers.retain(|pointer| !secrets.iter().any(|secret| is_within(pointer, secret)));
    pointers
}

/// Pointers to all objects of a document that have a member of one of the two forms, right or not, in
/// order.
pub fn reserved_members(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(value, &mut String::new(), &mut |pointer, value| {
        let members = value.as_object();
        let is_reserved = members.is_some_and(|members| {
            members.contains_key(SEALED_MEMBER) || members.contains_key(REF_MEMBER)
        });
        if is_reserved {
            found.push(pointer.to_owned());
        }
        is_reserved
    });
    found
}

/// The name of a value in a secret store that Dapr serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Name of the secret store component.
    pub store: String,
    /// Name of the secret in it.
    pub key: String,
    /// Which of the values of the secret; absent: the one that has the name of the secret, or the
    /// only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

impl SecretRef {
    /// The reference that a value is.
    ///
    /// # Errors
    /// What the value lacks of the form of a reference.
    pub fn of_value(value: &Value) -> Result<Self, &'static str> {
        let members = value.as_object().filter(|members| members.len() == 1);
        let inner = members
            .and_then(|members| members.get(REF_MEMBER))
            .ok_or(r#"a reference to a secret is {"$secretRef": {"store": …, "key": …}}"#)?;
        let read = Self::deserialize(inner).map_err(
            |_error| "a reference to a secret has the texts store and key, and perhaps member",
        )?;
        let names = [&read.store, &read.key].into_iter().chain(&read.member);
        for name in names {
            if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
                return Err("a name in a reference to a secret has 1 to 256 bytes and no controls");
            }
        }
        Ok(read)
    }
}

/// Pointers to all references to secret stores of a document, in order.
pub fn secret_refs(value: &Value) -> Vec<(String, SecretRef)> {
    let mut found = Vec::new();
    collect(value, &mut String::new(), &mut |pointer, value| {
        let read = SecretRef::of_value(value).ok();
        let is_ref = read.is_some();
        found.extend(read.map(|read| (pointer.to_owned(), read)));
        is_ref
    });
    found
}

/// Whether a fault that a schema has found in a stored document is only that a value is sealed: the
/// schema is about the plain value, which was checked before it was sealed. `sealed` has the pointers
/// of [`sealed_values`].
#[cfg(feature = "jsonschema")]
pub fn is_of_sealing<'a>(
    fault: &jsonschema::ValidationError<'_>,
    sealed: impl IntoIterator<Item = &'a str>,
) -> bool {
    use jsonschema::error::ValidationErrorKind as Kind;

    let at = fault.instance_path().to_string();
    // Of alternatives it is not known which one the plain value fits.
    let is_alternative = matches!(
        fault.kind(),
        Kind::AnyOf { .. }
            | Kind::OneOfNotValid { .. }
            | Kind::OneOfMultipleValid { .. }
            | Kind::Not { .. }
            | Kind::Contains
            | Kind::UnevaluatedProperties { .. }
            | Kind::UnevaluatedItems { .. }
    );
    let mut sealed = sealed.into_iter();
    sealed.any(|sealed| is_within(&at, sealed) || (is_alternative && is_within(sealed, &at)))
}

/// Calls `found` with each part of a value, and with the parts of it if the answer is `false`.
fn collect<'v>(
    value: &'v Value,
    pointer: &mut String,
    found: &mut impl FnMut(&str, &'v Value) -> bool,
) {
    if found(pointer, value) {
        return;
    }
    let mut inner = |token: &str, value: &'v Value| {
        let length = pointer.len();
        crate::places::push_token(pointer, token);
        collect(value, pointer, found);
        pointer.truncate(length);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| inner(name, value)),
        Value::Array(elements) => {
            for (at, value) in elements.iter().enumerate() {
                inner(&at.to_string(), value);
            }
        }
        _scalar => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secret_places_are_found_under_every_keyword_and_the_outer_one_counts() {
        let schema = json!({
            "$defs": {"token": {"type": "string", "x-secret": true}},
            "properties": {
                "password": {"x-secret": true},
                "open": {"x-secret": false},
                "servers": {"items": {"properties": {"token": {"$ref": "#/$defs/token"}}}},
                "whole": {"x-secret": true, "properties": {"inner": {"x-secret": true}}},
            },
            "if": {"properties": {"kind": {"const": "a"}}},
            "then": {"properties": {"value": {"x-secret": true}}},
        });
        let places = SecretPlaces::sealed(&schema).expect("valid").expect("some");
        let value = json!({
            "password": 7, "open": "x", "servers": [{"token": "a"}, {"other": 1}, {"token": "b"}],
            "whole": {"inner": 1}, "kind": "b", "value": "secret whatever the kind is",
        });
        assert_eq!(
            places.of_value(&value),
            [
                "/password",
                "/servers/0/token",
                "/servers/2/token",
                "/value",
                "/whole"
            ]
        );
        assert!(SecretPlaces::sealed(&json!({"x-secret": "yes"})).is_err());
        assert!(SecretPlaces::references(&schema).expect("valid").is_none());
    }

    #[test]
    fn a_keyword_that_would_count_for_nothing_is_refused_with_its_place() {
        let secret = json!({"x-secret": true});
        let in_defs = json!({"pw": secret});
        for (schema, place) in [
            (
                json!({"not": {"properties": {"p": secret}}}),
                "/not/properties/p/x-secret",
            ),
            (
                json!({"properties": {"p": {"contentSchema": secret}}}),
                "/properties/p/contentSchema/x-secret",
            ),
            (json!({"propertyNames": secret}), "/propertyNames/x-secret"),
            (
                json!({"items": {}, "additionalItems": secret}),
                "/additionalItems/x-secret",
            ),
            // Mistyped, or of a tool.
            (json!({"propertes": {"p": secret}}), "/propertes/p/x-secret"),
            // Also where another value is found by the same subschema.
            (
                json!({
                    "$defs": in_defs, "properties": {"q": {"$ref": "#/$defs/pw"}},
                    "not": {"properties": {"p": {"$ref": "#/$defs/pw"}}},
                }),
                "/$defs/pw/x-secret",
            ),
        ] {
            let refused = SecretPlaces::sealed(&schema)
                .expect_err("refused")
                .to_string();
            assert!(
                refused.contains(&format!("x-secret at {place} counts for no")),
                "{refused}"
            );
            let text = schema.to_string();
            for (keyword, value) in [("x-secret-ref", "true"), ("x-ref", "\"A\"")] {
                let text = text.replace("\"x-secret\":true", &format!("\"{keyword}\":{value}"));
                let other = serde_json::from_str(&text).expect("a schema");
                let is_refused = SecretPlaces::references(&other).is_err()
                    || ReferenceRules::of_schema(&other).is_err();
                assert!(is_refused, "{text}");
            }
        }
        for fine in [
            // Nothing refers to it; and data.
            json!({"$defs": in_defs, "default": {"x-secret": 1}, "properties": {"p": secret}}),
            json!({"shared": in_defs, "properties": {"p": {"$ref": "#/shared/pw"}}}),
            json!({"properties": {"p": secret}, "not": {"properties": {"p": {"const": "x"}}}}),
        ] {
            let places = SecretPlaces::sealed(&fine)
                .expect("taken")
                .expect("a place");
            assert_eq!(places.of_value(&json!({"p": 1})), ["/p"]);
        }
    }

    #[test]
    fn two_keywords_of_one_value_are_found_by_the_schema() {
        let both = |schema: &Value| {
            let secrets = SecretPlaces::sealed(schema).expect("valid").expect("some");
            let references = ReferenceRules::of_schema(schema).expect("valid");
            secrets.with_reference(&references.expect("some"))
        };
        let (secret, reference) = (json!({"x-secret": true}), json!({"x-ref": "A"}));
        for (schema, place) in [
            (
                json!({"properties": {"p": {"x-secret": true, "x-ref": "A"}}}),
                Some("/p"),
            ),
            (
                json!({"properties": {"p": {"x-secret": true, "properties": {"q": reference}}}}),
                Some("/p/q"),
            ),
            (
                json!({
                    "allOf": [{"properties": {"p": {"items": secret}}}],
                    "properties": {"p": {"items": reference}},
                }),
                Some("/p/*"),
            ),
            (
                json!({
                    "properties": {"p": reference}, "additionalProperties": secret,
                    "anyOf": [{"properties": {"q": secret}}, {"properties": {"q": reference}}],
                }),
                Some("/q"),
            ),
            (json!({"properties": {"p": secret, "q": reference}}), None),
            (
                json!({"properties": {"p": reference}, "additionalProperties": secret}),
                None,
            ),
            (
                json!({
                    "$defs": {"node": {"properties": {
                        "p": secret, "q": reference, "all": {"items": {"$ref": "#/$defs/node"}},
                    }}},
                    "$ref": "#/$defs/node",
                }),
                None,
            ),
        ] {
            assert_eq!(both(&schema).as_deref(), place, "{schema}");
        }
    }

    #[cfg(feature = "jsonschema")]
    #[test]
    fn a_pattern_counts_for_the_names_that_fit_it() {
        let schema = json!({
            "patternProperties": {"^p_": {"x-secret": true}, "^q_": {}},
            "additionalProperties": {"properties": {"inner": {"x-secret": true}}},
        });
        let places = SecretPlaces::sealed(&schema).expect("valid").expect("some");
        let value = json!({"p_1": 1, "id": "p_", "q_": {"inner": 1}, "other": {"inner": 1}});
        assert_eq!(places.of_value(&value), ["/other/inner", "/p_1"]);
    }

    #[test]
    fn only_the_exact_forms_are_sealed_values_and_references() {
        let value = json!({
            "a": {"$secret": "v1.x"},
            "b": [{"$secret": "v1.y"}, {"$secret": "other"}, {"$secret": "v1.z", "more": 1}],
            "c": {"$secretRef": {"store": "s", "key": "k"}},
            "d": {"$secretRef": {"store": "s", "key": "k", "else": 1}},
            "e": {"$secretRef": {"store": "", "key": "k"}},
        });
        let sealed = sealed_values(&value);
        assert_eq!(
            sealed,
            [("/a".to_owned(), "v1.x"), ("/b/0".to_owned(), "v1.y")]
        );
        let refs = secret_refs(&value);
        assert_eq!(refs.len(), 1, "{refs:?}");
        assert_eq!(refs[0].0, "/c");
        let reserved = ["/a", "/b/0", "/b/1", "/b/2", "/c", "/d", "/e"];
        assert_eq!(reserved_members(&value), reserved);
    }
}
