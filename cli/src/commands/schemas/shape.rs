//! Converts schemas to the form that code generators accept.
//!
//! Generators read draft 7 and not 2020-12; [`draft_7`] converts between them. [`shape`] also removes
//! the rules on values: a type defines fields and their kinds, and only the schema defines which
//! values are valid. Nothing here validates a document.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use contract::secrets::SEALED_MEMBER;
use serde_json::{Map, Value, json};

/// Keywords that a type cannot express: rules on values, and names of the schema itself.
const RULES: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "default",
    "examples",
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
    "dependencies",
    "not",
    "if",
    "then",
    "else",
    "contains",
];

/// The same schema in draft 7. `home` is its position in the document around it, as a reference; `#`
/// when there is none.
///
/// # Errors
/// When it refers to another schema, or has a keyword that draft 7 cannot express.
pub(super) fn draft_7(schema: &Value, home: &str) -> anyhow::Result<Value> {
    let Value::Object(keywords) = schema else {
        return Ok(schema.clone());
    };
    let mut converted = Map::new();
    for (keyword, value) in keywords {
        match (keyword.as_str(), value) {
            // The new document names itself.
            ("$schema" | "$id", _) => {}
            ("$ref", Value::String(reference)) => {
                let own = reference
                    .strip_prefix("#/")
                    .with_context(|| format!("it refers to {reference}"))?;
                let own = own
                    .strip_prefix("$defs/")
                    .map_or(own.to_owned(), |name| format!("definitions/{name}"));
                converted.insert(keyword.clone(), format!("{home}/{own}").into());
            }
            ("$defs", Value::Object(named)) => {
                _ = converted.insert("definitions".to_owned(), each(named, home)?)
            }
            ("properties" | "patternProperties", Value::Object(named)) => {
                converted.insert(keyword.clone(), each(named, home)?);
            }
            ("dependentRequired", _) => {
                _ = converted.insert("dependencies".to_owned(), value.clone())
            }
            // Draft 7 writes a tuple as a list in `items`, and the rest as `additionalItems`.
            ("prefixItems", Value::Array(first)) => {
                let first: Result<Vec<_>, _> =
                    first.iter().map(|schema| draft_7(schema, home)).collect();
                converted.insert("items".to_owned(), first?.into());
                if let Some(rest) = keywords.get("items") {
                    converted.insert("additionalItems".to_owned(), draft_7(rest, home)?);
                }
            }
            // Converted together with `prefixItems`.
            ("items", _) if keywords.contains_key("prefixItems") => {}
            ("oneOf" | "anyOf" | "allOf", Value::Array(branches)) => {
                let branches: Result<Vec<_>, _> = branches
                    .iter()
                    .map(|schema| draft_7(schema, home))
                    .collect();
                converted.insert(keyword.clone(), branches?.into());
            }
            (
                "items"
                | "additionalProperties"
                | "if"
                | "then"
                | "else"
                | "not"
                | "contains"
                | "propertyNames",
                _,
            ) => {
                converted.insert(keyword.clone(), draft_7(value, home)?);
            }
            // Values, not schemas: they stay as they are, also if they look like keywords.
            ("enum" | "const" | "default" | "examples", _) => {
                _ = converted.insert(keyword.clone(), value.clone())
            }
            (
                unknown @ ("unevaluatedProperties"
                | "unevaluatedItems"
                | "dependentSchemas"
                | "$dynamicRef"),
                _,
            ) => {
                bail!("{unknown} cannot be expressed in draft 7");
            }
            _ => _ = converted.insert(keyword.clone(), value.clone()),
        }
    }
    Ok(Value::Object(converted))
}

/// The same map of schemas in draft 7.
fn each(named: &Map<String, Value>, home: &str) -> anyhow::Result<Value> {
    let named: Result<Map<_, _>, anyhow::Error> = named
        .iter()
        .map(|(name, schema)| Ok((name.clone(), draft_7(schema, home)?)))
        .collect();
    Ok(Value::Object(named?))
}

/// The schema from which types are generated: draft 7, without rules, titled with the name of the
/// collection.
///
/// # Errors
/// As [`draft_7`].
pub(super) fn shape(collection: &str, schema: &Value) -> anyhow::Result<Value> {
    let mut shape = without_rules(&draft_7(schema, "#")?);
    shape["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    shape["title"] = json!(collection);
    Ok(shape)
}

/// The same schema without keywords that a type cannot express.
fn without_rules(schema: &Value) -> Value {
    let Value::Object(keywords) = schema else {
        return schema.clone();
    };
    let mut kept = Map::new();
    for (keyword, value) in keywords {
        match (keyword.as_str(), value) {
            // A rule: no type can express it.
            (rule, _) if RULES.contains(&rule) => {}
            ("properties" | "definitions" | "patternProperties", Value::Object(named)) => {
                let named = named
                    .iter()
                    .map(|(name, schema)| (name.clone(), without_rules(schema)));
                kept.insert(keyword.clone(), named.collect());
            }
            // Generated types ignore unknown members, so that they can read documents of a newer schema.
            ("additionalProperties", Value::Bool(false)) => {}
            ("additionalItems", _) => {}
            // A tuple: its length is a part of its type.
            ("items", Value::Array(first)) => {
                kept.insert(
                    "items".to_owned(),
                    first.iter().map(without_rules).collect(),
                );
                kept.insert("minItems".to_owned(), first.len().into());
                kept.insert("maxItems".to_owned(), first.len().into());
            }
            ("items" | "additionalProperties", _) => {
                _ = kept.insert(keyword.clone(), without_rules(value))
            }
            ("oneOf" | "anyOf" | "allOf", Value::Array(branches)) => {
                let branches: Vec<_> = branches
                    .iter()
                    .map(without_rules)
                    .filter(defines_a_type)
                    .collect();
                if !branches.is_empty() {
                    kept.insert(keyword.clone(), branches.into());
                }
            }
            _ => _ = kept.insert(keyword.clone(), value.clone()),
        }
    }
    Value::Object(kept)
}

/// Whether a branch still defines a type. A branch that only requires members is a rule.
fn defines_a_type(branch: &Value) -> bool {
    branch.as_object().is_some_and(|keywords| {
        keywords
            .keys()
            .any(|keyword| !["required", "description"].contains(&keyword.as_str()))
    })
}

/// Replaces each enumeration with values that are not text by the types of its values. typify makes
/// a variant name from each value, and cannot make one from 7.
pub(super) fn replace_enums_without_text(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            let values = keywords.get("enum").and_then(Value::as_array);
            if let Some(values) = values.filter(|values| !values.iter().all(Value::is_string)) {
                let types: BTreeSet<_> = values.iter().map(type_of).collect();
                keywords.remove("enum");
                keywords.insert("type".to_owned(), types.into_iter().collect());
            }
            keywords.values_mut().for_each(replace_enums_without_text);
        }
        Value::Array(elements) => elements.iter_mut().for_each(replace_enums_without_text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Lets each secret be its sealed form too: a reader without the key has nothing else. A writer gives the
/// plain value.
pub(super) fn allow_sealed_forms(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            let schemas = keywords
                .iter_mut()
                .filter(|(keyword, _)| !holds_values(keyword));
            schemas.for_each(|(_keyword, value)| allow_sealed_forms(value));
            if is_secret(keywords) {
                let plain = std::mem::take(keywords);
                let sealed = json!({
                    "type": "object",
                    "description": "A sealed secret",
                    "properties": {SEALED_MEMBER: {"type": "string"}},
                    "required": [SEALED_MEMBER],
                });
                keywords.insert("anyOf".to_owned(), json!([plain, sealed]));
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(allow_sealed_forms),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The objects of a shape, by the names of all their members. The value has the names of the members
/// that are secret, or have secrets in them that are no member of an object themselves.
pub(super) fn secret(shape: &Value) -> BTreeMap<BTreeSet<String>, BTreeSet<String>> {
    members_that(shape, |_name, _object, member| {
        let mut rest = vec![member];
        // A schema may refer to itself.
        let mut followed = BTreeSet::new();
        while let Some(schema) = rest.pop() {
            let Some(keywords) = schema.as_object() else {
                continue;
            };
            if is_secret(keywords) {
                return true;
            }
            for (keyword, value) in keywords {
                match (keyword.as_str(), value) {
                    (
                        "items" | "prefixItems" | "oneOf" | "anyOf" | "allOf",
                        Value::Array(schemas),
                    ) => rest.extend(schemas),
                    (
                        "items"
                        | "additionalProperties"
                        | "unevaluatedItems"
                        | "unevaluatedProperties"
                        | "contains"
                        | "if"
                        | "then"
                        | "else",
                        _,
                    ) => rest.push(value),
                    ("patternProperties", Value::Object(named)) => rest.extend(named.values()),
                    ("$ref", Value::String(reference)) if followed.insert(reference) => {
                        let target = reference.strip_prefix('#');
                        rest.extend(target.and_then(|target| shape.pointer(target)));
                    }
                    _ => {}
                }
            }
        }
        false
    })
}

fn is_secret(keywords: &Map<String, Value>) -> bool {
    keywords.get("x-secret") == Some(&Value::Bool(true))
}

/// Whether what a keyword has are values, and no schemas.
fn holds_values(keyword: &str) -> bool {
    matches!(keyword, "enum" | "const" | "default" | "examples")
}

/// The name of the type of a value, in JSON Schema.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The objects of a shape, by the names of all their members. The value has the names of the members
/// that are optional and may also be null.
pub(super) fn nullable(shape: &Value) -> BTreeMap<BTreeSet<String>, BTreeSet<String>> {
    members_that(shape, |name, object, member| {
        let required = object["required"].as_array();
        let is_required = required.is_some_and(|all| all.iter().any(|each| each == name));
        !is_required && may_be_null(shape, member)
    })
}

/// The objects of a shape, by the names of all their members. The value has the names of those for
/// which `is` holds: it gets the name, the schema of the object and the one of the member.
fn members_that(
    shape: &Value,
    is: impl Fn(&str, &Value, &Value) -> bool,
) -> BTreeMap<BTreeSet<String>, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    let mut rest = vec![shape];
    while let Some(schema) = rest.pop() {
        if let Some(members) = schema.get("properties").and_then(Value::as_object) {
            let those = members
                .iter()
                .filter(|(name, member)| is(name, schema, member));
            let those: BTreeSet<String> = those.map(|(name, _member)| name.clone()).collect();
            found
                .entry(members.keys().cloned().collect())
                .or_insert_with(BTreeSet::new)
                .extend(those);
        }
        match schema {
            Value::Object(members) => rest.extend(members.values()),
            Value::Array(elements) => rest.extend(elements),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found
}

/// Whether null is a valid value; a reference is followed once.
fn may_be_null(shape: &Value, schema: &Value) -> bool {
    let target = schema["$ref"]
        .as_str()
        .and_then(|reference| shape.pointer(reference.strip_prefix('#')?));
    match &target.unwrap_or(schema)["type"] {
        Value::String(kind) => kind == "null",
        Value::Array(kinds) => kinds.iter().any(|kind| kind == "null"),
        // Without `type` any value is valid, unless another keyword restricts it.
        _ => !["$ref", "enum", "const", "oneOf", "anyOf", "allOf"]
            .iter()
            .any(|keyword| schema.get(keyword).is_some()),
    }
}
