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
