//! From claims to grants: the rules of one issuer.

use contract::{
    access::{Grant, Identity},
    token::check_grants,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Refused,
    names::{is_of, visible},
};

/// A claim that gives a grant. Exactly one of `value` and `prefix` is there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClaimRule {
    /// Name of a claim, or a JSON pointer (RFC 6901) to one inside of another.
    claim: String,
    /// The text that the claim has, or that is one of its elements.
    #[serde(default)]
    value: Option<String>,
    /// How this text begins.
    #[serde(default)]
    prefix: Option<String>,
    /// What it gives.
    grant: Grant,
}

impl ClaimRule {
    /// # Errors
    /// The fault in words.
    pub(super) fn check(&self) -> Result<(), String> {
        check_grants(std::slice::from_ref(&self.grant)).map_err(|error| error.to_string())?;
        match (&self.value, &self.prefix) {
            (Some(_), None) => Ok(()),
            // An empty prefix would take every caller of the issuer, and one that ends inside of a
            // part of a name takes more names than it shows.
            (None, Some(prefix)) if prefix.ends_with([':', '/']) => Ok(()),
            (None, Some(_)) => Err("a prefix ends with : or /".to_owned()),
            _ => Err("expected either value or prefix".to_owned()),
        }
    }

    fn applies(&self, claims: &Value) -> bool {
        let Some(claim) = claim(claims, &self.claim) else {
            return false;
        };
        let fits = |text: &str| match (&self.value, &self.prefix) {
            (Some(value), _) => text == value,
            (None, Some(prefix)) => is_of(text, prefix),
            (None, None) => false,
        };
        match claim {
            // A list of words (RFC 8693 section 4.2).
            Value::String(words) if self.claim == "scope" => words.split(' ').any(fits),
            Value::String(text) => fits(text),
            Value::Array(elements) => elements.iter().filter_map(Value::as_str).any(fits),
            _ => false,
        }
    }
}

fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') {
        claims.pointer(name)
    } else {
        claims.get(name)
    }
}

/// The identity that claims give. One without a grant is a known caller that may do nothing.
///
/// # Errors
/// When the claim with the name is missing or is none.
pub(super) fn identity(
    issuer: &str,
    name_claim: &str,
    rules: &[ClaimRule],
    claims: &Value,
) -> Result<Identity, Refused> {
    let Some(name) = claim(claims, name_claim).and_then(Value::as_str) else {
        let detail = format!("the token has no text in the claim {name_claim}");
        return Err(Refused::Invalid(detail));
    };
    let given = rules.iter().filter(|rule| rule.applies(claims));
    Ok(Identity {
        // Two issuers may know different people by the same name.
        name: visible(&format!("jwt:{issuer}"), name)?,
        grants: given.map(|rule| rule.grant.clone()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(rule: Value) -> ClaimRule {
        serde_json::from_value(rule).expect("a rule")
    }

    #[test]
    fn a_rule_reads_texts_lists_scopes_and_nested_claims() {
        let claims = json!({
            "sub": "system:serviceaccount:pay:api", "roles": ["a", "config-writer"],
            "id": "spiffe://a/ns/../x", "scope": "openid config", "realm_access": {"roles": ["config-reader"]}, "n": 7
        });
        for (given, expected) in [
            (json!({"claim": "roles", "value": "config-writer"}), true),
            (json!({"claim": "roles", "value": "config"}), false),
            (json!({"claim": "scope", "value": "config"}), true),
            (json!({"claim": "scope", "value": "openid config"}), false),
            (
                json!({"claim": "/realm_access/roles", "value": "config-reader"}),
                true,
            ),
            (
                json!({"claim": "sub", "prefix": "system:serviceaccount:pay:"}),
                true,
            ),
            (
                json!({"claim": "sub", "prefix": "system:serviceaccount:pa:"}),
                false,
            ),
            (json!({"claim": "id", "prefix": "spiffe://a/ns/"}), false),
            (json!({"claim": "id", "value": "spiffe://a/ns/../x"}), true),
            (
                json!({"claim": "sub", "value": "system:serviceaccount:pay:"}),
                false,
            ),
            (json!({"claim": "n", "value": "7"}), false),
            (json!({"claim": "none", "value": ""}), false),
        ] {
            let mut whole = given.clone();
            whole["grant"] = json!({"role": "reader"});
            assert_eq!(rule(whole).applies(&claims), expected, "{given}");
        }
    }

    #[test]
    fn a_rule_that_takes_more_than_it_shows_is_refused() {
        for wrong in [
            json!({"claim": "sub", "prefix": "", "grant": {"role": "reader"}}),
            json!({"claim": "sub", "prefix": "spiffe://a/ns/pay", "grant": {"role": "reader"}}),
            json!({"claim": "sub", "grant": {"role": "reader"}}),
            json!({"claim": "sub", "value": "a", "prefix": "a/", "grant": {"role": "reader"}}),
        ] {
            assert!(rule(wrong.clone()).check().is_err(), "{wrong}");
        }
    }
}
