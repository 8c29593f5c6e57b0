//! What goes into MongoDB comes back as it was.

use contract::{CanonicalJson, canonical::MAX_DEPTH};
use mongodb::bson::doc;
use proptest::prelude::*;

use super::*;

/// A quarter of the stack of a thread of the programs.
const STACK: usize = 512 << 10;

fn round_trip(text: &str) -> CanonicalJson {
    let canonical = CanonicalJson::parse(text.as_bytes()).expect(text);
    let bytes = to_bson(canonical.as_str().as_bytes())
        .expect("an object")
        .to_vec()
        .expect("BSON");
    let text = text_of(&bytes).expect("JSON");
    CanonicalJson::parse(&text).expect("canonical")
}

fn text_of(bson: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    write_text(RawDocument::from_bytes(bson).expect("BSON"), &mut text)?;
    Ok(text)
}

#[test]
fn numbers_and_unusual_keys_are_kept() {
    let text = r#"{"":1,"$numberLong":"1","$oid":{"$date":{"$serde_json::private::RawValue":"[1]"}},"$set":{"a.b":[9007199254740993,-9223372036854775808,1e20,1e300,0.1,-0,1e2]},"ü":null}"#;
    assert_eq!(
        round_trip(text),
        CanonicalJson::parse(text.as_bytes()).expect("json")
    );
}

/// A test has a thread of 2 MiB, as the programs have.
#[test]
fn the_deepest_document_is_converted_in_a_small_part_of_a_stack() {
    let levels = MAX_DEPTH - 1;
    for (open, close) in [(r#"{"n":"#, "}"), ("[", "]")] {
        let deep = format!(
            r#"{{"n":{}1{}}}"#,
            open.repeat(levels),
            close.repeat(levels)
        );
        let convert = move || {
            let canonical = CanonicalJson::parse(deep.as_bytes()).expect(&deep);
            assert_eq!(round_trip(&deep), canonical);
        };
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread
            .spawn(convert)
            .expect("a thread")
            .join()
            .expect("the same value");
    }
}

#[test]
fn an_error_names_the_place() {
    let wrong = doc! { "a": 1_i64, "b": [{ "c": 1_i64 }, { "d": mongodb::bson::DateTime::MIN }] };
    let bytes = wrong.to_vec().expect("BSON");
    let error = text_of(&bytes).expect_err("a time");
    assert!(
        format!("{error:#}").starts_with(r#"field "b.1.d": "#),
        "{error:#}"
    );
}

proptest! {
    #[test]
    fn bson_keeps_every_number(integers in prop::collection::vec(any::<i64>(), 0..20), doubles in prop::collection::vec(any::<f64>(), 0..20)) {
        let doubles = doubles.iter().filter(|n| n.is_finite()).map(|n| format!("{n:e}"));
        let numbers: Vec<_> = integers.iter().map(i64::to_string).chain(doubles).collect();
        let text = format!(r#"{{"n":[{}]}}"#, numbers.join(","));
        prop_assert_eq!(round_trip(&text), CanonicalJson::parse(text.as_bytes()).expect("json"));
    }

    #[test]
    fn the_text_of_any_string_is_its_canonical_one(string in any::<String>()) {
        let canonical = CanonicalJson::of(&serde_json::json!({ "text": string })).expect("json");
        let bytes = to_bson(canonical.as_str().as_bytes()).expect("an object").to_vec().expect("BSON");
        prop_assert_eq!(text_of(&bytes).expect("JSON"), canonical.as_str().as_bytes());
    }
}
