//! OpenAPI 3.1 documents, built operation by operation.
//!
//! Schemas come from the types that are read and written ([`ApiSchema`]). [`operations`] has the
//! operations that both services offer. Nothing here serves a document.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use contract::ProblemKind;
use serde_json::{Map, Value, json};

pub use operation::{ApiAnswer, ApiHeader, ApiOperation};
pub use schema::ApiSchema;
use schema::NamedSchemas;

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
    description: "The format depends on `Accept`",
    pattern: "^Accept$",
};
/// When a request may be sent again.
pub const RETRY_AFTER: ApiHeader = ApiHeader {
    name: "Retry-After",
    description: "Seconds after which trying again may help",
    pattern: "^[0-9]+$",
};

/// A document that is being built, operation by operation. [`ApiDocument::finish`] gives it as JSON.
///
/// [`super::routes::describe`] adds the operations of a route table, so that no route is forgotten.
#[derive(Debug)]
pub struct ApiDocument {
    /// Title, version, description and license.
    info: Value,
    /// The URL that generated clients use unless they are told another one.
    server: String,
    /// By path, then by method in lower case.
    paths: BTreeMap<String, Map<String, Value>>,
    schemas: NamedSchemas,
    /// Schemas of bodies. They replace the others of the same name, because they allow more.
    received: NamedSchemas,
    /// Components that are not schemas.
    components: Map<String, Value>,
}

impl ApiDocument {
    /// A document without operations.
    ///
    /// `server` is the URL of the service with its default settings.
    pub fn new(title: &str, description: &str, server: &str) -> Self {
        let license = json!({"name": "Apache-2.0", "identifier": "Apache-2.0"});
        let version = env!("CARGO_PKG_VERSION");
        Self {
            info: json!({"title": title, "version": version, "description": description, "license": license}),
            server: server.to_owned(),
            paths: BTreeMap::new(),
            schemas: NamedSchemas::new(),
            received: NamedSchemas::new(),
            components: Map::new(),
        }
    }

    /// The same, with a token in a header that some operations require.
    #[must_use]
    pub fn token(self, scheme: &str, header: &str, description: &str) -> Self {
        let token =
            json!({"type": "apiKey", "in": "header", "name": header, "description": description});
        self.scheme(scheme, token)
    }

    /// The same, with a bearer token (RFC 6750) that some operations require.
    #[must_use]
    pub fn bearer(self, scheme: &str, description: &str) -> Self {
        let token = json!({"type": "http", "scheme": "bearer", "description": description});
        self.scheme(scheme, token)
    }

    fn scheme(mut self, name: &str, scheme: Value) -> Self {
        let schemes = self
            .components
            .entry("securitySchemes")
            .or_insert_with(|| json!({}));
        schemes[name] = scheme;
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

    /// The document as JSON, with all named schemas under `components/schemas`.
    pub fn finish(mut self) -> Value {
        // Last, so that they replace the schemas of the same name.
        self.schemas.extend(self.received);
        self.components
            .insert("schemas".to_owned(), json!(self.schemas));
        let server = json!({"url": self.server, "description": "The default settings"});
        json!({"openapi": "3.1.0", "info": self.info, "servers": [server], "paths": self.paths, "components": self.components})
    }
}

/// The problem kinds that the operations of a document name. The tests of the services compare them
/// with the kinds that each service can send.
pub fn problem_kinds(document: &Value) -> HashSet<ProblemKind> {
    let mut kinds = HashSet::new();
    visit(document, &mut |value| {
        let named = value
            .get(operation::PROBLEM_TYPES)
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

/// Calls `visitor` for a value and for everything in it.
fn visit(value: &Value, visitor: &mut impl FnMut(&Value)) {
    visitor(value);
    match value {
        Value::Object(members) => members.values().for_each(|member| visit(member, visitor)),
        Value::Array(items) => items.iter().for_each(|item| visit(item, visitor)),
        _ => {}
    }
}
