//! JSON Schemas of the collections, against which every new value is checked.
//!
//! A collection without a schema takes any object. The schemas in force are replaced as a whole while
//! the publisher runs. Nothing is read from files or from the network here. A sample is only served
//! by the API: it is not checked, and nothing is checked against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use bytes::Bytes;
use contract::{
    CollectionName, canonical,
    problem::Violation,
    references::{Reference, ReferenceRules},
    secrets::{
        REF_MEMBER, SEALED_MEMBER, SECRET, SECRET_REF, SecretPlaces, SecretRef, is_of_sealing,
        is_within, misplaced, reserved_members, sealed_text, sealed_values,
    },
};
use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Value, value::RawValue};
use service::nearest::nearest;
use sha2::{Digest, Sha256};

use super::value::IN_TRANSACTION_BYTES;
use crate::decide::WriteError;

/// Most violations that a refusal names.
const VIOLATIONS: usize = 20;
/// Most references of a document: each one costs a look-up when it is written.
const REFERENCES: usize = 1_000;
/// Most characters of a violation: it names members, and so quotes the document.
const VIOLATION_CHARS: usize = 300;

/// Schemas by collection.
pub type SchemaMap = BTreeMap<CollectionName, Arc<Schema>>;

/// The schemas in force, of all collections that have one.
#[derive(Debug, Default)]
pub struct Schemas(ArcSwap<SchemaMap>);

/// The schema of a collection.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    document: Value,
    references: Option<ReferenceRules>,
    secrets: Option<SecretPlaces>,
    secret_refs: Option<SecretPlaces>,
    /// Name of this version of the schema:
    /// `urn:confcast:schema:{collection}:{first 12 hex digits of its sha-256}`.
    pub urn: String,
    /// `title` of the schema.
    pub title: Option<String>,
    /// `description` of the schema.
    pub description: Option<String>,
    /// The file, byte for byte. The digits in the URN are of this text.
    pub text: Bytes,
    /// An example document, if there is one.
    pub sample: Option<Bytes>,
}

impl Schemas {
    /// These schemas are in force.
    pub fn new(schemas: SchemaMap) -> Self {
        Self(ArcSwap::from_pointee(schemas))
    }

    /// Puts other schemas in force. A write that is under way may still be checked against the
    /// earlier ones.
    pub fn replace(&self, schemas: SchemaMap) {
        self.0.store(Arc::new(schemas));
    }

    /// The schema of a collection, if it has one.
    pub fn get(&self, collection: &CollectionName) -> Option<Arc<Schema>> {
        self.0.load().get(collection).cloned()
    }

    /// All schemas, by collection.
    pub fn all(&self) -> Arc<SchemaMap> {
        self.0.load_full()
    }

    /// Checks a document, with its secrets in plain text, against the schema of its collection, and
    /// gives its references to others.
    ///
    /// # Errors
    /// [`WriteError::Schema`] with each violation.
    pub fn check(
        &self,
        collection: &CollectionName,
        document: &Value,
    ) -> Result<Vec<Reference>, WriteError> {
        let Some(schema) = self.get(collection) else {
            check_reserved_members(document, None)?;
            return Ok(Vec::new());
        };
        schema.check(document)?;
        check_reserved_members(document, Some(&schema))?;
        let references = schema.references_of(document);
        if references.len() > REFERENCES {
            let violation = Violation {
                pointer: references[REFERENCES].pointer.clone(),
                detail: format!("a document has at most {REFERENCES} references to others"),
            };
            return Err(WriteError::Schema {
                violations: vec![violation],
                more: false,
            });
        }
        Ok(references)
    }
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// When the text is not a JSON Schema, or the sample is not JSON.
    pub fn new(
        collection: &CollectionName,
        text: Bytes,
        sample: Option<Bytes>,
    ) -> anyhow::Result<Self> {
        if let Some(sample) = &sample {
            let _: &RawValue = serde_json::from_slice(sample).context("its sample")?;
        }
        let document = canonical::value(&text)?;
        ensure!(document.is_object(), "a schema is a JSON object");
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&document)?;
        let references = ReferenceRules::of_schema(&document)?;
        let secrets = SecretPlaces::sealed(&document)?;
        let secret_refs = SecretPlaces::references(&document)?;
        // The id is the key of the document, and a document is an object.
        if let Some(secrets) = &secrets {
            let places = secrets.of_value(&serde_json::json!({"id": ""}));
            ensure!(
                places.is_empty(),
                "{SECRET} is neither for a whole document nor for its id (describe id in properties, \
                 where a rule is for all other members)"
            );
        }
        check_overlaps(references.as_ref(), secrets.as_ref(), secret_refs.as_ref())?;
        let member = |keyword| {
            document
                .get(keyword)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        Ok(Self {
            validator,
            urn: format!("urn:confcast:schema:{collection}:{}", digits(&text)),
            title: member("title"),
            description: member("description"),
            document,
            references,
            secrets,
            secret_refs,
            text,
            sample,
        })
    }

    /// Where its documents refer to others, if they do.
    pub fn references(&self) -> Option<&ReferenceRules> {
        self.references.as_ref()
    }

    /// Where its documents have secrets, if they do.
    pub fn secrets(&self) -> Option<&SecretPlaces> {
        self.secrets.as_ref()
    }

    /// The references of a document. Where the schema has alternatives, only those that the document
    /// matches count.
    pub fn references_of(&self, document: &Value) -> Vec<Reference> {
        let rules = self.references.as_ref();
        rules.map_or_else(Vec::new, |it| it.references_by(&self.validator, document))
    }

    /// Checks a document.
    ///
    /// # Errors
    /// [`WriteError::Schema`] with each violation; of a large document the first only, because all
    /// of them may take much memory.
    pub fn check(&self, document: &Value) -> Result<(), WriteError> {
        let Err(first) = self.validator.validate(document) else {
            return self.check_secret_refs(document);
        };
        let secrets = self.secrets.as_ref();
        let secrets = secrets.map_or_else(Vec::new, |secrets| secrets.of_value(document));
        let size = document.to_string().len();
        if size > IN_TRANSACTION_BYTES {
            return Err(WriteError::Schema {
                violations: vec![self.violation(&first, &secrets)],
                more: true,
            });
        }
        let mut faults = self.validator.iter_errors(document);
        let violations = faults
            .by_ref()
            .take(VIOLATIONS)
            .map(|fault| self.violation(&fault, &secrets))
            .collect();
        Err(WriteError::Schema {
            violations,
            more: faults.next().is_some(),
        })
    }

    /// Whether a document as it is stored, with its secrets sealed, fits the schema. A sealed value at
    /// a place that is not secret does not: its service would read the sealed form.
    pub fn fits_stored(&self, document: &Value) -> bool {
        if !misplaced(self.secrets.as_ref(), document).is_empty() {
            return false;
        }
        if self.validator.is_valid(document) {
            return true;
        }
        let sealed = sealed_values(document);
        let mut faults = self.validator.iter_errors(document);
        faults.all(|fault| {
            let sealed = sealed.iter().map(|(pointer, _text)| pointer.as_str());
            is_of_sealing(&fault, sealed)
        })
    }

    /// Checks the form of the references to secret stores.
    fn check_secret_refs(&self, document: &Value) -> Result<(), WriteError> {
        let places = self.secret_refs.as_ref();
        let pointers = places.map_or_else(Vec::new, |places| places.of_value(document));
        let violations: Vec<_> = pointers
            .into_iter()
            .filter_map(|pointer| {
                let reason = SecretRef::of_value(document.pointer(&pointer)?).err()?;
                Some(Violation {
                    pointer,
                    detail: reason.to_owned(),
                })
            })
            .take(VIOLATIONS)
            .collect();
        if violations.is_empty() {
            return Ok(());
        }
        let more = violations.len() == VIOLATIONS;
        Err(WriteError::Schema { violations, more })
    }

    /// The violation in words. The value at fault may be large or private, so the text does not
    /// repeat it; of a secret it does not even name the members.
    fn violation(&self, fault: &ValidationError<'_>, secrets: &[String]) -> Violation {
        let at = fault.instance_path().to_string();
        if let Some(secret) = secrets.iter().find(|secret| is_within(&at, secret)) {
            // The keyword is of the schema, as everything on this path.
            let path = fault.schema_path().as_str();
            let keyword = path.rsplit('/').next().unwrap_or_default();
            return Violation {
                pointer: secret.clone(),
                detail: format!("the secret does not fit its schema ({keyword})"),
            };
        }
        if sealed_text(fault.instance()).is_some() {
            return Violation {
                pointer: at,
                detail:
                    "a sealed secret is stored here and the schema does not say x-secret any more: \
                         give the value in plain text, or the keyword back"
                        .to_owned(),
            };
        }
        let text = fault.masked_with("the value").to_string();
        let mut detail: String = text.chars().take(VIOLATION_CHARS).collect();
        if let ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } = fault.kind()
        {
            let known = self.members_beside(fault.schema_path().as_str());
            let meant = unexpected
                .iter()
                .take(VIOLATIONS)
                .filter_map(|name| Some((name, nearest(name, known.iter().map(String::as_str))?)));
            for (name, meant) in meant {
                detail.push_str(&format!("; {name:?} is probably {meant:?}"));
            }
        }
        Violation {
            pointer: fault.instance_path().to_string(),
            detail,
        }
    }

    /// The names of the members that the schema of an object knows, of which a keyword has this
    /// path.
    fn members_beside(&self, keyword_path: &str) -> Vec<String> {
        let parent = keyword_path
            .rsplit_once('/')
            .map_or("", |(parent, _keyword)| parent);
        self.document
            .pointer(parent)
            .and_then(|schema| schema.get("properties")?.as_object())
            .map(|members| members.keys().cloned().collect())
            .unwrap_or_default()
    }
}

/// Refuses a schema with two of our keywords for one value, of which one would count for nothing: a
/// secret refers to nothing, and a name in a secret store is neither an id nor a secret.
fn check_overlaps(
    references: Option<&ReferenceRules>,
    secrets: Option<&SecretPlaces>,
    secret_refs: Option<&SecretPlaces>,
) -> anyhow::Result<()> {
    for (keyword, places) in [(SECRET, secrets), (SECRET_REF, secret_refs)] {
        let Some(places) = places else { continue };
        let found = references.and_then(|references| places.with_reference(references));
        if let Some(pointer) = found {
            bail!(
                "{keyword} and x-ref are for one value, at {pointer:?} of a document: choose one"
            );
        }
    }
    if let (Some(secrets), Some(secret_refs)) = (secrets, secret_refs)
        && let Some(pointer) = secrets.with_secret_ref(secret_refs)
    {
        bail!(
            "{SECRET} and {SECRET_REF} are for one value, at {pointer:?} of a document: choose one"
        );
    }
    Ok(())
}

/// Refuses the forms of secrets where the schema has no place for them. Replicas open and resolve these
/// forms without a schema, so a writer could otherwise let a service read any entry of a secret store.
fn check_reserved_members(document: &Value, schema: Option<&Schema>) -> Result<(), WriteError> {
    let reserved = reserved_members(document);
    if reserved.is_empty() {
        return Ok(());
    }
    let pointers = |places: Option<&SecretPlaces>| -> BTreeSet<String> {
        let pointers = places.map_or_else(Vec::new, |places| places.of_value(document));
        pointers.into_iter().collect()
    };
    // Their form was checked, so they have nothing else in them.
    let refs = pointers(schema.and_then(|schema| schema.secret_refs.as_ref()));
    let secrets = pointers(schema.and_then(|schema| schema.secrets.as_ref()));
    let mut wrong = reserved.into_iter().filter(|at| !refs.contains(at));
    let violations: Vec<_> = wrong
        .by_ref()
        .take(VIOLATIONS)
        .map(|at| Violation {
            // The members of a secret are not named.
            pointer: match secrets.iter().find(|secret| is_within(&at, secret)) {
                Some(secret) => secret.clone(),
                None => at,
            },
            detail: format!(
                "the member {SEALED_MEMBER} is only for a sealed value at a place with {SECRET} in the \
                 schema, and {REF_MEMBER} only at a place with {SECRET_REF}"
            ),
        })
        .collect();
    if violations.is_empty() {
        return Ok(());
    }
    let more = wrong.next().is_some();
    Err(WriteError::Schema { violations, more })
}

/// The first 12 hex digits of the SHA-256 of a text; they identify its version.
pub fn digits(text: &[u8]) -> String {
    Sha256::digest(text)
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn violations(document: &Value) -> Vec<(String, String)> {
        let schema = json!({
            "properties": {
                "retries": {"type": "integer"},
                "deep": {"properties": {"name": {"type": "string"}}, "additionalProperties": false},
            },
            "required": ["retries"],
            "additionalProperties": false,
        });
        let name = "A".parse().expect("a name");
        let schema = Schema::new(&name, schema.to_string().into(), None).expect("a schema");
        match schema.check(document) {
            Err(WriteError::Schema { violations, .. }) => violations
                .into_iter()
                .map(|violation| (violation.pointer, violation.detail))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_names_all_violations_and_the_nearest_name_of_a_typing_error() {
        let found = violations(&json!({"retrys": 3, "deep": {"Name": "x", "name": 1}}));
        let pointers: Vec<_> = found.iter().map(|(pointer, _detail)| &**pointer).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(pointers.contains(&"/deep/name"), "{found:?}");
        let details: String = found.iter().map(|(_pointer, detail)| &**detail).collect();
        assert!(
            details.contains(r#""retrys" is probably "retries""#),
            "{details}"
        );
        assert!(
            details.contains(r#""Name" is probably "name""#),
            "{details}"
        );
    }

    #[test]
    fn a_refusal_is_bounded() {
        let many: serde_json::Map<_, _> = (0..500).map(|n| (format!("x{n}"), json!(n))).collect();
        let found = violations(&Value::Object(many));
        assert!(found.iter().all(|(_pointer, detail)| detail.len() < 1_000));
        let large = json!({"x": "y".repeat(IN_TRANSACTION_BYTES)});
        assert_eq!(violations(&large).len(), 1);
    }
}
