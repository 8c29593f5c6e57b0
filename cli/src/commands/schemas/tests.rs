//! The files that are generated from the schemas of this repository, except those that need Node.js
//! or the network.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn shipped() -> Vec<Contract> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "schemas"]
        .iter()
        .collect();
    source::folder(&folder).expect("the schemas")
}

#[test]
fn the_types_in_the_repository_are_those_of_its_schemas() {
    let contracts = shipped();
    let types = rust::types(
        contracts
            .iter()
            .map(|contract| (&contract.collection, &contract.schema)),
    )
    .expect("types");
    let path: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "..",
        "configs",
        "src",
        "generated.rs",
    ]
    .iter()
    .collect();
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == types,
        "configs/src/generated.rs is out of date: confcast schemas --dir schemas --no-typescript && \
         cp generated/rust/configs.rs configs/src/generated.rs"
    );
}

#[test]
fn all_files_are_written_and_other_files_stay() {
    let (contracts, out) = (shipped(), tempfile::tempdir().expect("a folder"));
    let own = out.path().join("rust/own.rs");
    fs::create_dir(out.path().join("rust")).expect("made");
    fs::write(&own, "mine").expect("written");
    for _again in 0..2 {
        write(&contracts, out.path()).expect("written");
    }
    for Contract {
        collection, text, ..
    } in &contracts
    {
        let schema = out.path().join(format!("schemas/{collection}.schema.json"));
        assert_eq!(&fs::read_to_string(schema).expect("the schema"), text);
    }
    assert!(
        out.path().join("rust/configs.rs").exists() && out.path().join("asyncapi.json").exists()
    );
    assert!(own.exists(), "a file that was not generated must stay");
}

/// The payload of a message as a schema, together with the schemas that it refers to.
fn payload(document: &Value, message: &str) -> jsonschema::Validator {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "allOf": [document["components"]["messages"][message]["payload"]],
        "components": document["components"],
    });
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a schema")
}

#[test]
fn the_examples_are_valid_for_their_messages() {
    let contracts = shipped();
    let document = asyncapi::document(&contracts).expect("a document");
    for Contract { collection, .. } in &contracts {
        for kind in ["Event", "Change"] {
            let message = format!("{collection}{kind}");
            let example =
                document["components"]["messages"][&message]["examples"][0]["payload"].clone();
            let validator = payload(&document, &message);
            if let Err(error) = validator.validate(&example) {
                panic!("{message}: {} {error}", error.instance_path());
            }
            // The rules of the schema of the collection apply to the value, also those behind references.
            for (pointer, wrong) in [
                ("/op", json!("Patch")),
                ("/configData/id", json!("no id")),
                ("/crc", json!("6A4D")),
            ] {
                let mut example = example.clone();
                let data = if kind == "Event" { "/data" } else { "" };
                *example
                    .pointer_mut(&format!("{data}{pointer}"))
                    .expect("there") = wrong;
                assert!(
                    !validator.is_valid(&example),
                    "{message} accepts a wrong {pointer}"
                );
            }
        }
    }
}

#[test]
fn a_keyword_that_draft_7_lacks_is_refused_and_not_omitted() {
    for schema in [
        json!({"$ref": "https://example.com/x"}),
        json!({"properties": {"a": {"unevaluatedProperties": false}}}),
    ] {
        shape::draft_7(&schema, "#").expect_err("it cannot be expressed");
    }
}

#[test]
fn names_of_collections_become_names_of_types() {
    let schema =
        json!({"type": "object", "properties": {"any": {}, "at": {"type": ["string", "null"]}}});
    for (name, module, kind) in [("Free_Form", "free_form", "FreeForm"), ("tv", "tv", "Tv")] {
        let types =
            rust::types(std::iter::once((&name.parse().expect("a name"), &schema))).expect("types");
        for line in [
            format!("pub mod {module} {{"),
            format!("pub use {module}::{kind};"),
        ] {
            assert!(types.contains(&line), "no {line} in {types}");
        }
        assert!(types.contains("fn present"), "{types}");
    }
    let plain = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let types =
        rust::types(std::iter::once((&"Plain".parse().expect("a name"), &plain))).expect("types");
    assert!(!types.contains("fn present"), "an unused function: {types}");
}

/// A schema with secrets of many forms.
fn with_secrets() -> Value {
    let secret = |kind: &str| json!({"type": kind, "x-secret": true});
    json!({
        "type": "object",
        "required": ["password", "port"],
        "properties": {
            "port": {"type": "integer"},
            "password": secret("string"),
            "optional": secret("string"),
            "nullable": {"type": ["string", "null"], "x-secret": true},
            "tokens": {"type": "array", "items": secret("string")},
            "by_name": {"type": "object", "additionalProperties": secret("integer")},
            "named": {"$ref": "#/$defs/pin"},
            "login": {
                "type": "object", "x-secret": true,
                "properties": {"user": {"type": "string"}}, "required": ["user"]
            },
            "servers": {"type": "array", "items": {
                "type": "object", "properties": {"host": {"type": "string"}, "key": secret("string")}
            }},
            "access": {"oneOf": [
                {
                    "type": "object", "required": ["kind", "pin"],
                    "properties": {"kind": {"const": "pin"}, "pin": secret("integer")},
                },
                {
                    "type": "object", "required": ["kind", "door"],
                    "properties": {"kind": {"const": "open"}, "door": {"type": "string"}},
                },
            ]},
        },
        "$defs": {"pin": secret("integer")},
    })
}

#[test]
fn secrets_have_a_type_that_debug_does_not_show() {
    let name = "Databases".parse().expect("a name");
    let types = rust::types(std::iter::once((&name, &with_secrets()))).expect("types");
    let compact: String = types.split_whitespace().collect();
    for field in [
        "password:super::Secret<::std::string::String>,",
        "optional:::std::option::Option<super::Secret<::std::string::String>>,",
        "tokens:::std::option::Option<super::Secret<::std::vec::Vec<::std::string::String>>,>,",
        "named:::std::option::Option<super::Secret<Pin>>,",
        "login:::std::option::Option<super::Secret<DatabasesLogin>>,",
        "key:::std::option::Option<super::Secret<::std::string::String>>,",
        "port:i64,",
        "Pin{pin:super::Secret<i64>}",
        "Open{door:::std::string::String}",
    ] {
        assert!(compact.contains(field), "no {field} in {types}");
    }
    assert_eq!(types.matches("super::Secret<").count(), 9, "{types}");
    assert!(types.contains("pub struct Secret<T>(T);"), "{types}");
}

#[test]
fn a_secret_is_found_behind_each_reference_and_kind_of_element() {
    let pin = json!({"$ref": "#/$defs/pin"});
    let members = json!({
        "twice": {"$ref": "#/$defs/alias"},
        "list": {"$ref": "#/$defs/pins"},
        "choice": {"oneOf": [pin, {"type": "null"}]},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, pin]},
        "chosen": {"if": {"type": "string"}, "then": pin},
        "tree": {"$ref": "#/$defs/tree"},
        "port": {"type": "integer"},
    });
    let shape = json!({
        "properties": members,
        "$defs": {
            "pin": {"type": "integer", "x-secret": true},
            "alias": pin,
            "pins": {"type": "array", "items": pin},
            "tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        },
    });
    let found = shape::secret(&shape).into_values().flatten();
    let found: Vec<_> = found.collect();
    assert_eq!(
        found,
        ["choice", "chosen", "list", "pair", "twice"].map(str::to_owned)
    );
}

#[test]
fn a_secret_may_have_its_sealed_form_where_readers_have_no_key() {
    let contract = Contract {
        collection: "Databases".parse().expect("a name"),
        schema: with_secrets(),
        ..shipped().remove(0)
    };
    let document = asyncapi::document(&[contract]).expect("a document");
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": "#/components/schemas/Databases",
        "components": document["components"],
    });
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let sealed = json!({"$secret": "v1.a"});
    let plain =
        json!({"port": 1, "password": "x", "tokens": ["x"], "named": 1, "login": {"user": "x"}});
    let stored = json!({
        "port": 1, "password": sealed, "tokens": [sealed], "named": sealed, "login": sealed,
        "servers": [{"host": "x", "key": sealed}],
    });
    for value in [plain, stored.clone()] {
        assert!(schema.is_valid(&value), "{value}");
    }
    let mut wrong = stored;
    wrong["port"] = sealed;
    assert!(!schema.is_valid(&wrong), "it is no secret");
}
