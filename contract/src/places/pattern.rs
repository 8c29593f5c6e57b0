//! A pattern of member names (`patternProperties`). Nothing here knows what a member means.

/// A pattern of names. It is compared by the library that validates documents, so both find the same
/// names; without that library no name is known to fit or not to fit.
#[derive(Debug)]
pub(crate) struct Pattern {
    #[cfg(feature = "jsonschema")]
    names: Option<jsonschema::Validator>,
}

impl Pattern {
    /// A regular expression of ECMA-262, as schemas have it.
    #[cfg_attr(
        not(feature = "jsonschema"),
        expect(unused_variables, reason = "only the library reads it")
    )]
    pub(super) fn new(expression: &str) -> Self {
        Self {
            #[cfg(feature = "jsonschema")]
            names: jsonschema::validator_for(&serde_json::json!({"pattern": expression})).ok(),
        }
    }

    /// Whether a name is known to fit.
    pub(super) fn fits(&self, name: &str) -> bool {
        self.compare(name) == Some(true)
    }

    /// Whether a name fits, as far as it is known.
    pub(super) fn may_fit(&self, name: &str) -> bool {
        self.compare(name) != Some(false)
    }

    #[cfg(feature = "jsonschema")]
    fn compare(&self, name: &str) -> Option<bool> {
        let names = self.names.as_ref()?;
        Some(names.is_valid(&serde_json::Value::from(name)))
    }

    #[cfg(not(feature = "jsonschema"))]
    fn compare(&self, _name: &str) -> Option<bool> {
        None
    }
}
