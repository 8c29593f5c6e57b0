//! The places of a schema that hold references, and what the values there refer to.

use serde_json::json;

use super::*;

fn rules(schema: &Value) -> ReferenceRules {
    let rules = ReferenceRules::of_schema(schema).expect("a schema");
    rules.expect("it has an x-ref")
}

/// Pointer, collection and id of each reference, in one text.
fn found(schema: &Value, value: &Value) -> Vec<String> {
    let references = rules(schema).references(value, || None);
    references
        .into_iter()
        .map(|reference| {
            let Reference {
                pointer,
                collection,
                id,
            } = reference;
            format!("{pointer} {collection} {id}")
        })
        .collect()
}

#[test]
fn strings_and_arrays_of_strings_refer_and_nothing_else_does() {
    let schema = json!({"properties": {
        "skill": {"x-ref": "Skill"},
        "skills": {"type": "array", "x-ref": "Skill"},
        "presets": {"type": "array", "items": {"x-ref": "Preset"}},
        "other": {"type": "string"},
    }});
    let value = json!({
        "skill": "a", "skills": ["b", 7, null, "c"], "presets": ["d", "e"], "other": "f",
    });
    assert_eq!(
        found(&schema, &value),
        [
            "/presets/0 Preset d",
            "/presets/1 Preset e",
            "/skill Skill a",
            "/skills/0 Skill b",
            "/skills/3 Skill c",
        ]
    );
    let other_types = json!({"skill": 7, "skills": {"0": "b"}, "presets": null});
    assert_eq!(found(&schema, &other_types), Vec::<String>::new());
}

#[test]
fn every_keyword_that_holds_subschemas_is_followed() {
    let schema = json!({
        "$defs": {
            "id": {"type": "string", "x-ref": "Def"},
            "named": {"$anchor": "here", "properties": {"anchored": {"x-ref": "Anchor"}}},
            "a/b~c": {"x-ref": "Escaped"},
        },
        "$ref": "#here",
        "properties": {
            "pair": {"prefixItems": [{"x-ref": "First"}, {}], "items": {"x-ref": "Rest"}},
            "tuple": {"items": [{"x-ref": "First"}], "additionalItems": {"x-ref": "Rest"}},
            "map": {"properties": {"known": {}}, "additionalProperties": {"$ref": "#/$defs/id"}},
            "a/b": {"$ref": "#/%24defs/a~1b~0c"},
        },
        "patternProperties": {"^p": {"x-ref": "Pattern"}},
        "allOf": [{"properties": {"all": {"x-ref": "All"}}}],
        "anyOf": [{"properties": {"any": {"x-ref": "Any"}}}],
        "oneOf": [{"properties": {"one": {"x-ref": "One"}}}],
        "if": {"properties": {"if": {"x-ref": "If"}}},
        "then": {"properties": {"then": {"x-ref": "Then"}}},
        "else": {"properties": {"else": {"x-ref": "Else"}}},
        "dependentSchemas": {"dep": {"properties": {"dep": {"x-ref": "Dependent"}}}},
    });
    let value = json!({
        "anchored": "x", "pair": ["1", "2", "3"], "tuple": ["1", "2"], "map": {"known": "no", "k": "v"},
        "a/b": "e", "all": "x", "any": "x", "one": "x", "if": "x", "then": "x", "else": "x", "dep": "x",
    });
    let found = found(&schema, &value);
    for expected in [
        "/anchored Anchor x",
        "/pair/0 First 1",
        "/pair/2 Rest 3",
        "/tuple/0 First 1",
        "/tuple/1 Rest 2",
        "/map/k Def v",
        "/a~1b Escaped e",
        "/all All x",
        "/any Any x",
        "/one One x",
        "/if If x",
        "/then Then x",
        "/else Else x",
        "/dep Dependent x",
    ] {
        assert!(
            found.contains(&expected.to_owned()),
            "{expected}: {found:#?}"
        );
    }
    assert!(
        !found.iter().any(|found| found.contains("/known")),
        "{found:#?}"
    );
    assert!(!found.contains(&"/pair/1 Rest 2".to_owned()), "{found:#?}");
}

#[test]
fn a_recursive_schema_ends_with_its_value() {
    let schema = json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {
            "allOf": [{"$ref": "#/$defs/node"}, {"$ref": "#"}],
            "properties": {
                "skill": {"x-ref": "Skill"},
                "children": {"items": {"$ref": "#/$defs/node"}},
            },
        }},
    });
    let value = json!({"skill": "a", "children": [{"skill": "b", "children": [{"skill": "c"}]}]});
    assert_eq!(
        found(&schema, &value),
        [
            "/children/0/children/0/skill Skill c",
            "/children/0/skill Skill b",
            "/skill Skill a",
        ]
    );
    let skill = "Skill".parse().expect("a name");
    assert_eq!(rules(&schema).paths(&skill), None, "values of any depth");
}

#[test]
fn of_alternatives_only_those_that_apply_count() {
    let schema = json!({"oneOf": [
        {"properties": {"kind": {"const": "skill"}, "to": {"x-ref": "Skill"}}},
        {"properties": {"kind": {"const": "preset"}, "to": {"x-ref": "Preset"}}},
        {"properties": {"kind": {"const": "url"}, "to": {"type": "string"}}},
    ]});
    let value = json!({"kind": "skill", "to": "a"});
    let rules = rules(&schema);
    let applied = || {
        Some(AppliedPlaces::from([(
            "/to".to_owned(),
            "Skill".to_owned(),
        )]))
    };
    let collections = |references: Vec<Reference>| {
        let names = references
            .into_iter()
            .map(|found| found.collection.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(collections(rules.references(&value, applied)), ["Skill"]);
    let not_valid = rules.references(&value, || None);
    assert_eq!(collections(not_valid), ["Preset", "Skill"]);
    let none = rules.references(&value, || Some(AppliedPlaces::new()));
    assert_eq!(none, Vec::new());
}

#[test]
fn paths_are_listed_where_names_are_fixed() {
    let schema = json!({"properties": {
        "skill": {"x-ref": "Skill"},
        "deep": {"items": {"properties": {"skills": {"items": {"x-ref": "Skill"}}}}},
        "map": {"additionalProperties": {"x-ref": "Preset"}},
    }});
    let of = |schema: &Value, name: &str| rules(schema).paths(&name.parse().expect("a name"));
    // Another part of the same schema has members of any name.
    assert_eq!(of(&schema, "Preset"), None);
    let fixed = json!({"properties": {
        "skill": schema["properties"]["skill"], "deep": schema["properties"]["deep"],
        "map": {"additionalProperties": {"type": "string"}},
    }});
    let paths = of(&fixed, "Skill").expect("a list");
    let expected = [vec!["deep", "skills"], vec!["skill"]];
    assert_eq!(paths.into_iter().collect::<Vec<_>>(), expected);
    let nested = json!({"properties": {"matrix": {"items": {"items": {"x-ref": "Skill"}}}}});
    assert_eq!(of(&nested, "Skill"), None, "arrays of arrays");
}

#[test]
fn a_schema_that_cannot_be_followed_is_refused_in_words() {
    let error = |schema: &Value| {
        let error = ReferenceRules::of_schema(schema).expect_err("refused");
        error.to_string()
    };
    for name in [json!("no name"), json!(7), json!({})] {
        let schema = json!({"properties": {"a": {"x-ref": name}}});
        let expected = "x-ref at /properties/a/x-ref is not the name of a collection";
        assert_eq!(error(&schema), expected);
    }
    for reference in [
        "other.json",
        "urn:x#/$defs/a",
        "#/$defs/none",
        "#none",
        "#%zz",
    ] {
        let schema = json!({"$id": "urn:own", "x-ref": "A", "$ref": reference});
        assert!(
            error(&schema).contains(&format!("{reference:?}")),
            "{reference}"
        );
    }
    for plain in [json!({"$ref": "other.json"}), json!(true), json!({})] {
        assert!(
            ReferenceRules::of_schema(&plain)
                .expect("no x-ref")
                .is_none()
        );
    }
    let own = json!({"$id": "urn:own", "$ref": "urn:own#/$defs/a", "$defs": {"a": {"x-ref": "A"}}});
    assert_eq!(rules(&own).targets().len(), 1);
}
