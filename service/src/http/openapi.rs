//! OpenAPI 3.1 documents, built operation by operation.
//!
//! Schemas come from the types that are read and written ([`ApiSchema`]). [`operations`] has the
//! operations that both services offer. Nothing here serves a document.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use contract::ProblemKind;
use serde_json::{Map, Value, json};

pub use operation::{ApiAnswer, ApiHeader, ApiOperation};
pub use schema::ApiSchema;
use schema::Schemas;

mod operation;
pub mod operations;
mod schema;

/// Entity tag of an answer.
pub const ETAG: ApiHeader = ApiHeader {
    name: "ETag",
    description: "Changes whenever the body does; strong",
    pattern: r#"^"[!#-~]+"$"#,
};
/// The header of the request that decides the format of an answer.
pub const VARY: ApiHeader = ApiHeader {
    name: "Vary",
    description: "The form depends on `Accept`",
    pattern: "^Accept$",
};
/// When a request may be sent again.
pub const RETRY_AFTER: ApiHeader = ApiHeader {
    name: "Retry-After",
    description: "Seconds after which trying again may help",
    pattern: "^[0-9]+$",
};

/// A document that is being built.
#[derive(Debug)]
pub struct ApiDocument {
    info: Value,
    paths: BTreeMap<String, Map<String, Value>>,
    schemas: Schemas,
    /// Schemas of bodies. They replace the others of the same name, because they allow more.
    received: Schemas,
    components: Map<String, Value>,
}

impl ApiDocument {
    /// A document without operations.
    pub fn new(title: &str, description: &str) -> Self {
        let license = json!({"name": "Apache-2.0", "identifier": "Apache-2.0"});
        let version = env!("CARGO_PKG_VERSION");
        Self {
            info: json!({"title": title, "version": version, "description": description, "license": license}),
            paths: BTreeMap::new(),
            schemas: Schemas::new(),
            received: Schemas::new(),
            components: Map::new(),
        }
    }

    /// The same, with a token in a header that some operations require.
    #[must_use]
    pub fn token(mut self, scheme: &str, header: &str, description: &str) -> Self {
        let token =
            json!({"type": "apiKey", "in": "header", "name": header, "description": description});
        self.components
            .insert("securitySchemes".to_owned(), json!({scheme: token}));
        self
    }

    /// The same, with the operation of a method (in lower case) of a path.
    #[must_use]
    pub fn operation(mut self, method: &str, path: &str, operation: ApiOperation) -> Self {
        self.received.extend(operation.received.clone());
        let value = operation.into_value(&mut self.schemas);
        self.paths
            .entry(path.to_owned())
            .or_default()
            .insert(method.to_owned(), value);
        self
    }

    /// The document as JSON.
    pub fn finish(mut self) -> Value {
        self.schemas.extend(self.received);
        self.components
            .insert("schemas".to_owned(), json!(self.schemas));
        json!({"openapi": "3.1.0", "info": self.info, "paths": self.paths, "components": self.components})
    }
}

/// The problem kinds that the operations of a document name.
pub fn problem_kinds(document: &Value) -> HashSet<ProblemKind> {
    let mut kinds = HashSet::new();
    visit(document, &mut |value| {
        let named = value
            .pointer("/properties/type/enum")
            .and_then(Value::as_array);
        for urn in named.into_iter().flatten().filter_map(Value::as_str) {
            kinds.extend(urn.parse::<ProblemKind>().ok());
        }
    });
    kinds
}

/// References of a document that have no target; a valid document has none.
pub fn missing_references(document: &Value) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    visit(document, &mut |value| {
        if let Some(Value::String(reference)) = value.get("$ref")
            && reference
                .strip_prefix('#')
                .and_then(|to| document.pointer(to))
                .is_none()
        {
            missing.insert(reference.clone());
        }
    });
    missing
}

fn visit(value: &Value, visitor: &mut impl FnMut(&Value)) {
    visitor(value);
    match value {
        Value::Object(members) => members.values().for_each(|member| visit(member, visitor)),
        Value::Array(items) => items.iter().for_each(|item| visit(item, visitor)),
        _ => {}
    }
}
