//! Keywords that were probably meant as one of ours. JSON Schema takes every unknown keyword, so a
//! secret with a mistyped one would be stored in plain text without a word.

use serde_json::Value;

use super::{PlacesError, push_token, reader::is_no_rule};
use crate::{
    secrets::{SECRET, SECRET_REF},
    text::nearest::nearest,
};

/// Keywords that have subschemas by a name that the schema chooses.
const BY_NAME: [&str; 6] = [
    "properties",
    "patternProperties",
    "dependentSchemas",
    "dependencies",
    "$defs",
    "definitions",
];

/// Refuses a keyword that looks like one of ours and is none, wherever a schema may have it.
///
/// # Errors
/// [`PlacesError::Misspelled`], for the first one.
pub(super) fn refuse_misspelled(schema: &Value) -> Result<(), PlacesError> {
    in_schema(schema, &mut String::new())
}

fn in_schema(schema: &Value, pointer: &mut String) -> Result<(), PlacesError> {
    match schema {
        Value::Object(keywords) => {
            for (keyword, value) in keywords {
                if let Some(meant) = meant_by(keyword) {
                    let mut at = pointer.clone();
                    push_token(&mut at, keyword);
                    return Err(PlacesError::Misspelled { pointer: at, meant });
                }
                let is_by_name = BY_NAME.contains(&keyword.as_str());
                if is_no_rule(keyword) && !is_by_name {
                    continue;
                }
                within(pointer, keyword, |pointer| match value {
                    Value::Object(named) if is_by_name => {
                        for (name, schema) in named {
                            within(pointer, name, |pointer| in_schema(schema, pointer))?;
                        }
                        Ok(())
                    }
                    other => in_schema(other, pointer),
                })?;
            }
            Ok(())
        }
        Value::Array(elements) => {
            for (at, element) in elements.iter().enumerate() {
                within(pointer, &at.to_string(), |pointer| {
                    in_schema(element, pointer)
                })?;
            }
            Ok(())
        }
        _scalar => Ok(()),
    }
}

fn within<T>(pointer: &mut String, token: &str, visit: impl FnOnce(&mut String) -> T) -> T {
    let length = pointer.len();
    push_token(pointer, token);
    let found = visit(pointer);
    pointer.truncate(length);
    found
}

/// The keyword that was probably meant by this one; `None` when it is that keyword, or none of ours.
fn meant_by(keyword: &str) -> Option<&'static str> {
    const REF: &str = "x-ref";
    if [SECRET, SECRET_REF, REF].contains(&keyword) {
        return None;
    }
    let letters = keyword.chars().filter(char::is_ascii_alphanumeric);
    let letters = letters.collect::<String>().to_ascii_lowercase();
    if let Some(rest) = letters.strip_prefix("xsecret") {
        return Some(if rest.starts_with("ref") {
            SECRET_REF
        } else {
            SECRET
        });
    }
    // Others may have keywords like `x-rev`, so only forms of this very word count.
    if ["xref", "xrefs", "xreference", "xreferences"].contains(&letters.as_str()) {
        return Some(REF);
    }
    let is_of_vendor = keyword.starts_with(['x', 'X']);
    let like = is_of_vendor.then(|| nearest(keyword, [SECRET, SECRET_REF]))??;
    [SECRET, SECRET_REF]
        .into_iter()
        .find(|known| *known == like)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_keyword_that_looks_like_one_of_ours_is_refused_with_its_place() {
        for (keyword, meant) in [
            ("x-secrets", SECRET),
            ("x-Secret", SECRET),
            ("x_secret", SECRET),
            ("xSecret", SECRET),
            ("x-secert", SECRET),
            ("x-secret-refs", SECRET_REF),
            ("x-secretRef", SECRET_REF),
            ("x-refs", "x-ref"),
            ("x-Ref", "x-ref"),
        ] {
            for (schema, place) in [
                (
                    json!({"properties": {"p": {keyword: true}}}),
                    "/properties/p",
                ),
                (json!({"$defs": {"p": {keyword: true}}}), "/$defs/p"),
                (json!({"not": {"anyOf": [{keyword: true}]}}), "/not/anyOf/0"),
            ] {
                let refused = refuse_misspelled(&schema).expect_err("refused");
                let text = refused.to_string();
                assert!(text.contains(&format!("{place}/{keyword}")), "{text}");
                assert!(text.contains(&format!("{meant:?}")), "{text}");
            }
        }
        for fine in [
            json!({"x-secret": true, "x-secret-ref": true, "x-ref": "A", "x-rev": 1, "x-ui": {}}),
            json!({"properties": {"x-secrets": {}, "xref": {}, "secret": {}}}),
            json!({"default": {"x-secrets": 1}, "enum": [{"x-refs": 1}]}),
        ] {
            assert_eq!(refuse_misspelled(&fine), Ok(()), "{fine}");
        }
    }
}
