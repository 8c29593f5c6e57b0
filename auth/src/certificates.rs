//! Which grants the name in a client certificate has. Nothing here verifies a certificate: the TLS
//! handshake did.

use std::collections::HashMap;

use contract::{access::Grant, objects, token::check_grants};
use serde::Deserialize;

use crate::{
    Identity, Refused,
    names::{is_of, visible},
};

/// The file of certificate names, after the checks.
#[derive(Debug, Default)]
pub(crate) struct CertificateMap {
    exact: HashMap<String, Vec<Grant>>,
    /// The longest prefix first.
    prefixes: Vec<(String, Vec<Grant>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    certificates: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    prefix: Option<String>,
    grants: Vec<Grant>,
}

impl CertificateMap {
    /// Reads the file.
    ///
    /// # Errors
    /// The fault in words.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let file: File = objects::from_slice(text.as_bytes()).map_err(|error| error.to_string())?;
        let mut map = Self::default();
        for (index, rule) in file.certificates.into_iter().enumerate() {
            let wrong = |what: String| format!("/certificates/{index}: {what}");
            check_grants(&rule.grants).map_err(|error| wrong(error.to_string()))?;
            let is_new = match (rule.name, rule.prefix) {
                (Some(name), None) if !name.is_empty() => {
                    map.exact.insert(name, rule.grants).is_none()
                }
                // A prefix that ends inside of a segment would take names of others:
                // spiffe://a/ns/pay also begins spiffe://a/ns/payroll.
                (None, Some(prefix)) if prefix.ends_with('/') => {
                    let is_new = map.prefixes.iter().all(|(known, _grants)| *known != prefix);
                    map.prefixes.push((prefix, rule.grants));
                    is_new
                }
                (None, Some(_prefix)) => return Err(wrong("a prefix ends with /".to_owned())),
                _ => return Err(wrong("expected either name or prefix".to_owned())),
            };
            if !is_new {
                return Err(wrong("it is there twice".to_owned()));
            }
        }
        map.prefixes
            .sort_by_key(|(prefix, _grants)| std::cmp::Reverse(prefix.len()));
        Ok(map)
    }

    /// The identity of the holder of a certificate: an exact name decides before a prefix, and a longer
    /// prefix before a shorter one.
    ///
    /// # Errors
    /// When no rule has the name, or it is too long to be the name of a caller.
    pub(crate) fn find(&self, name: &str) -> Result<Identity, Refused> {
        match self.exact.get(name) {
            Some(grants) => identity(name, grants),
            None => self.of_prefix(name),
        }
    }

    fn of_prefix(&self, name: &str) -> Result<Identity, Refused> {
        let mut prefixes = self.prefixes.iter();
        let found = prefixes.find(|(prefix, _grants)| is_of(name, prefix));
        let Some((_prefix, grants)) = found else {
            // What a rule needs to have.
            let shown = visible("cert", name)?;
            let shown = shown.strip_prefix("cert:").unwrap_or_default();
            let detail = format!("{shown}, the name in the client certificate, is not known here");
            return Err(Refused::Invalid(detail));
        };
        identity(name, grants)
    }

    /// The identity whose name is known from an earlier request, `cert:` included, as [`visible`] made it.
    ///
    /// # Errors
    /// When no rule has the name any more.
    pub(crate) fn named(&self, name: &str) -> Result<Identity, Refused> {
        let is_same = |known: &&String| visible("cert", known).is_ok_and(|known| *known == *name);
        match self.exact.keys().find(is_same) {
            Some(known) => self.find(known),
            // Prefixes are of URIs, in which every character is visible.
            None => self.of_prefix(name.strip_prefix("cert:").unwrap_or(name)),
        }
    }

    /// Whether no certificate is accepted.
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }
}

fn identity(name: &str, grants: &[Grant]) -> Result<Identity, Refused> {
    Ok(Identity {
        name: visible("cert", name)?,
        grants: grants.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_name_decides_before_the_longest_prefix() {
        let map = CertificateMap::read(
            r#"{"certificates":[
                {"prefix":"spiffe://a/ns/","grants":[{"role":"reader"}]},
                {"prefix":"spiffe://a/ns/pay/","grants":[{"role":"replica"}]},
                {"name":"spiffe://a/ns/pay/admin","grants":[{"role":"operator"}]}]}"#,
        );
        let map = map.expect("rules");
        let role = |name: &str| {
            let found = map.find(name).ok()?;
            Some(format!("{:?}", found.grants[0].role))
        };
        assert_eq!(role("spiffe://a/ns/pay/admin").as_deref(), Some("Operator"));
        assert_eq!(role("spiffe://a/ns/pay/sa").as_deref(), Some("Replica"));
        assert_eq!(role("spiffe://a/ns/payroll").as_deref(), Some("Reader"));
        assert_eq!(role("spiffe://b/ns/pay/sa"), None);
        // The rest of a path leads nowhere else.
        for odd in ["../pay/sa", "x/../../b", "./x", "", "x//y", "x/"] {
            assert_eq!(role(&format!("spiffe://a/ns/{odd}")), None, "{odd}");
        }
        let name = map.find("spiffe://a/ns/x").expect("known").name;
        assert_eq!(&*name, "cert:spiffe://a/ns/x");
        assert!(map.named(&name).is_ok());
    }

    #[test]
    fn a_caller_is_known_by_the_visible_form_of_its_name() {
        let rules =
            r#"{"certificates":[{"name":"Payment Service","grants":[{"role":"replica"}]}]}"#;
        let map = CertificateMap::read(rules).expect("rules");
        let found = map.find("Payment Service").expect("known");
        assert_eq!(&*found.name, "cert:Payment%20Service");
        assert_eq!(map.named(&found.name).expect("known").name, found.name);
        assert!(map.named("cert:Payment Service ").is_err());
    }

    #[test]
    fn a_refusal_says_the_name_that_a_rule_must_have() {
        let map = CertificateMap::default();
        let Err(Refused::Invalid(detail)) = map.find("spiffe://a/ns/x\n") else {
            panic!("there are no rules");
        };
        assert!(detail.starts_with("spiffe://a/ns/x%0A, "), "{detail}");
    }

    #[test]
    fn rules_that_would_take_more_than_they_say_are_refused() {
        for wrong in [
            r#"{"certificates":[{"prefix":"spiffe://a/ns/pay","grants":[{"role":"reader"}]}]}"#,
            r#"{"certificates":[{"grants":[{"role":"reader"}]}]}"#,
            r#"{"certificates":[{"name":"","grants":[{"role":"reader"}]}]}"#,
            r#"{"certificates":[{"name":"a","grants":[]}]}"#,
            r#"{"certificates":[{"name":"a","prefix":"a/","grants":[{"role":"reader"}]}]}"#,
            r#"{"certificates":[{"name":"a","grants":[{"role":"reader"}]},{"name":"a","grants":[{"role":"reader"}]}]}"#,
        ] {
            assert!(CertificateMap::read(wrong).is_err(), "{wrong}");
        }
    }
}
