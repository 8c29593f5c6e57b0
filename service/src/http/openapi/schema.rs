//! JSON Schemas of the types that are read and written.
//!
//! `utoipa` derives them; this module corrects what the derive cannot know about the wire format. It
//! adds no rule of its own: what a schema requires, the type requires.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::{ToSchema, openapi::RefOr};

/// The name that the derive gives to an alias of `u64`.
const NUMBER: &str = "u64";

/// Schemas by name, as `components/schemas` of a document.
pub(super) type NamedSchemas = BTreeMap<String, Value>;

/// Whether an optional member may be null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nulls {
    /// The service never sends null: it omits the member.
    Omitted,
    /// A caller may send null instead of omitting the member.
    Allowed,
}

/// A schema, and the named schemas that it refers to. A schema in JSON (`From<Value>`) refers to no
/// other.
#[derive(Debug, Clone)]
pub struct ApiSchema {
    /// The schema itself; often only a reference.
    pub(super) value: Value,
    /// The schemas that it refers to, by name.
    pub(super) named: NamedSchemas,
}

impl ApiSchema {
    /// The schema of a type that the service sends, by reference.
    pub fn of<T: ToSchema>() -> Self {
        Self::derived::<T>(Nulls::Omitted)
    }

    /// The schema of a type that the service receives: an optional member may be null as well as
    /// absent.
    pub fn received<T: ToSchema>() -> Self {
        Self::derived::<T>(Nulls::Allowed)
    }

    /// The derived schema of a type and of everything that it refers to.
    fn derived<T: ToSchema>(nulls: Nulls) -> Self {
        let mut all = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut all);
        let named = all
            .into_iter()
            .filter(|(name, _schema)| name != NUMBER)
            .map(|(name, schema)| (name, corrected(&schema, nulls)))
            .collect();
        Self {
            value: json!({"$ref": format!("#/components/schemas/{}", T::name())}),
            named,
        }
    }

    /// The same, with the schema of a type parameter among the named ones.
    #[must_use]
    pub fn with_named<T: ToSchema>(mut self) -> Self {
        self.named.extend(Self::of::<T>().named);
        self
    }

    /// The same object, of which the service always sends these members, although a reader of it
    /// accepts it without them.
    ///
    /// The named schema itself says so: many generators pass over members beside a reference.
    #[must_use]
    pub fn always_with<T: ToSchema>(mut self, members: &[&str]) -> Self {
        if let Some(schema) = self.named.get_mut(&*T::name()) {
            schema["required"] = json!(members);
        }
        self
    }

    /// The schema of a list whose items have this schema.
    #[must_use]
    pub fn list(self) -> Self {
        Self {
            value: json!({"type": "array", "items": self.value}),
            named: self.named,
        }
    }

    /// The schema of newline-delimited JSON, each line of which has one of these schemas.
    ///
    /// OpenAPI 3.1 cannot describe lines: the answer is bytes for it, and an extension member has the
    /// schema of a line. An array would make generated clients read the answer as one JSON text.
    pub fn lines<const N: usize>(lines: [Self; N]) -> Self {
        let named = lines.iter().flat_map(|line| line.named.clone()).collect();
        let one_of: Vec<_> = lines.into_iter().map(|line| line.value).collect();
        Self {
            value: json!({
                "type": "string", "format": "binary", "description": "One JSON text per line",
                "x-line": {"oneOf": one_of},
            }),
            named,
        }
    }
}

impl From<Value> for ApiSchema {
    fn from(value: Value) -> Self {
        Self {
            value,
            named: NamedSchemas::new(),
        }
    }
}

/// A derived schema as JSON, corrected for the wire format.
fn corrected(schema: &RefOr<utoipa::openapi::Schema>, nulls: Nulls) -> Value {
    let mut value =
        serde_json::to_value(schema).expect("a schema has string keys and finite numbers only");
    correct(&mut value, nulls);
    value
}

/// Corrects what the derive cannot know: an optional member is absent, not null, in what the service
/// sends; an alias of a number is a number; numbers without a sign have 63 bits.
fn correct(value: &mut Value, nulls: Nulls) {
    match value {
        Value::Object(members) => {
            if nulls == Nulls::Omitted
                && let Some(Value::Array(types)) = members.get_mut("type")
            {
                // The derive writes an optional member as a type or null.
                types.retain(|each| each != "null");
                if let [only] = &mut types[..] {
                    members["type"] = only.take();
                }
            }
            // An optional reference is written as a choice between the reference and null.
            let null = json!({"type": "null"});
            if nulls == Nulls::Omitted
                && let Some(Value::Array(options)) = members.get_mut("oneOf")
                && let [option, other] = &mut options[..]
                && *other == null
                && let Value::Object(option) = option.take()
            {
                members.remove("oneOf");
                members.extend(option);
            }
            // The alias of a number has no schema of its own in the document.
            if members
                .get("$ref")
                .is_some_and(|to| *to == format!("#/components/schemas/{NUMBER}"))
            {
                members.remove("$ref");
                members.extend([
                    ("type".to_owned(), "integer".into()),
                    ("format".to_owned(), "uint64".into()),
                ]);
                members.insert("minimum".to_owned(), 0.into());
            }
            if members
                .get("format")
                .is_some_and(|format| format == "uint64")
            {
                // Stores hold 63 bits, and generators read a greater maximum as a negative number.
                members.insert("format".to_owned(), "int64".into());
                members.insert("maximum".to_owned(), i64::MAX.into());
            }
            members.values_mut().for_each(|value| correct(value, nulls));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| correct(value, nulls)),
        _ => {}
    }
}
