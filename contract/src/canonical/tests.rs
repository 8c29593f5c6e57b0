//! The canonical form: the examples of RFC 8785, refused texts with their pointers, and generated JSON.

use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> String {
    CanonicalJson::parse(text.as_bytes())
        .expect(text)
        .as_str()
        .to_owned()
}

fn refused(text: &str) -> (String, String) {
    let refusal = CanonicalJson::parse(text.as_bytes()).expect_err(text);
    (refusal.pointer, refusal.reason)
}

/// With one number changed: `333333333.33333329` of the RFC comes back as another number, so it is
/// refused.
#[test]
fn the_example_of_rfc_8785() {
    assert_eq!(refused("333333333.33333329").0, "");
    let given = r#"{"numbers":[333333333.33333331,1E30,4.50,2e-3,0.000000000000000000000000001],
        "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
    let expected = concat!(
        r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
        r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
    );
    assert_eq!(canonical(given), expected);
}

#[test]
fn keys_sort_by_utf16() {
    // U+1F600 is two surrogates (D83D …), which sort before U+FB33; by code point it would be the
    // other way round.
    assert_eq!(
        canonical("{\"\u{fb33}\":1,\"\u{1f600}\":2,\"\":3,\"$a.b\":4}"),
        "{\"\":3,\"$a.b\":4,\"\u{1f600}\":2,\"\u{fb33}\":1}"
    );
}

#[test]
fn integers_keep_their_digits() {
    assert_eq!(
        canonical("[9007199254740993, -9223372036854775808, -0, -0.0, 1e2, 1.0]"),
        "[9007199254740993,-9223372036854775808,0,0,100,1]"
    );
}

#[test]
fn the_text_of_a_double_can_be_parsed_again() {
    assert_eq!(canonical("1e20"), "100000000000000000000");
    assert_eq!(canonical("100000000000000000000"), "100000000000000000000");
}

#[test]
fn refusals_point_at_the_fault() {
    assert_eq!(
        refused(r#"{"a":{"b":1,"b":2}}"#),
        ("/a/b".into(), "duplicate key".into())
    );
    assert_eq!(refused(r#"{"a":[0,{"x/y~":1,"x/y~":1}]}"#).0, "/a/1/x~1y~0");
    assert_eq!(refused(r#"{"a\u0000":1}"#).1, "NUL in a key");
    assert_eq!(
        refused(r#"{"a":[1e400]}"#),
        (
            "/a/0".into(),
            "number beyond the range of a double: write it as a string".into()
        )
    );
    assert_eq!(
        refused(r#"{"pi":3.141592653589793238}"#),
        (
            "/pi".into(),
            "decimal number with more digits than a double gives back: write it as a string".into()
        )
    );
    assert_eq!(refused("[9223372036854775808]").0, "/0");
    assert_eq!(refused("[18446744073709551616]").0, "/0");
    assert_eq!(refused(r#"{"a":"\ud800"}"#).0, "/a");
    assert_eq!(refused("{").0, "");
    let deep = |levels| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    canonical(&deep(MAX_DEPTH));
    assert_eq!(refused(&deep(MAX_DEPTH + 1)).0, "/0".repeat(MAX_DEPTH));
    // Hostile nesting is refused before it can exhaust the stack.
    assert!(CanonicalJson::parse(deep(100_000).as_bytes()).is_err());
}

#[test]
fn what_survives_a_sidecar() {
    let survives = |text: &str| {
        CanonicalJson::parse(text.as_bytes())
            .expect(text)
            .survives_doubles()
    };
    assert!(survives(
        r#"{"a":9007199254740991,"b":[1.5,1e300,-9007199254740991],"c":"9007199254740993","9007199254740993":1}"#
    ));
    assert!(survives(r#"{"quote\"":"\\","a":"1,2"}"#));
    assert!(!survives(r#"{"a":[1,{"b":9007199254740992}]}"#));
    assert!(!survives(r#"["\\\"",-9007199254740993]"#));
}

#[test]
fn a_glance_is_enough_for_what_is_plain() {
    let plain = concat!(
        r#"{"":{},"0":[],"Z":-12.5,"a":[1,-7,"\"\\\n é",{"b":null}],"b":{"a":true,"b":false},"#,
        r#""c":123456789012345678,"d":1e+30,"e":"","quote":"a:b,c"}"#
    );
    assert!(is_canonical(plain), "{plain}");
    for other in [
        r#"{"b":1,"a":2}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"":1,"":2}"#,
        r#"{"a":1,"":2}"#,
        r#"{"a": 1}"#,
        "[1 ]",
        "[1,\n2]",
        r#"{"a" :1}"#,
        "-0",
        "1.0",
        "1e2",
        "[0.10]",
        "1E30",
        r#""\/""#,
        r#""\u0041""#,
        r#"{"é":1}"#,
        r#"{"a\n":1}"#,
        "1234567890123456789",
    ] {
        assert!(!is_canonical(other), "{other}");
    }
    let deep = |levels| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    assert!(is_canonical(&deep(MAX_DEPTH)) && !is_canonical(&deep(MAX_DEPTH + 1)));
}

fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(|n| format!("{n:e}")),
        ".*".prop_map(|s| serde_json::to_string(&s).expect("a string")),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6)
                .prop_map(|items| format!("[{}]", items.join(" , "))),
            prop::collection::btree_map("[^\0]{0,6}", inner, 0..6).prop_map(|members| {
                let members: Vec<_> = members
                    .iter()
                    .rev()
                    .map(|(key, value)| {
                        format!(
                            "{} : {value}",
                            serde_json::to_string(key).expect("a string")
                        )
                    })
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn canonical_is_idempotent_and_means_the_same(text in any_json()) {
        let once = CanonicalJson::parse(text.as_bytes()).expect("valid");
        let twice = CanonicalJson::parse(once.as_str().as_bytes()).expect("canonical text is readable");
        prop_assert_eq!(&once, &twice);
        let [a, b]: [serde_json::Value; 2] = [&text, once.as_str()].map(|t| serde_json::from_str(t).expect("json"));
        prop_assert!(same(&a, &b), "{} became {}", a, b);
    }

    /// A text that the fast check accepts is exactly what the conversion would write.
    #[test]
    fn a_glance_is_never_wrong(text in any_json(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let canonical = CanonicalJson::parse(text.as_bytes()).expect("valid");
        let mut bytes = canonical.as_str().as_bytes().to_vec();
        *at.get_mut(&mut bytes) = byte;
        for text in [text.as_bytes(), canonical.as_str().as_bytes(), &bytes] {
            let Ok(raw) = serde_json::from_slice::<&RawValue>(text) else { continue };
            if is_canonical(raw.get()) {
                let converted = CanonicalJson::convert(raw).expect("canonical");
                prop_assert_eq!(converted.as_str(), raw.get());
            }
        }
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _refused_or_not = CanonicalJson::parse(&bytes);
    }
}

/// Equal as values: `1.0` and `1` are the same number.
fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Number(a), Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Object(a), Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        _ => a == b,
    }
}
