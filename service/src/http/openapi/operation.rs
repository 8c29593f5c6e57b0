//! One operation of a document: parameters, body, answers and problems.
//!
//! Which answers an operation has cannot be derived from types: each service says so.

use std::collections::BTreeMap;

use contract::{
    Problem, ProblemKind,
    access::{Right, routes::Scope},
    problem::MEDIA_TYPE,
};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    ETAG, RETRY_AFTER,
    schema::{ApiSchema, NamedSchemas},
};
use crate::http::JSON;

/// Extension member of an answer: the values that `type` of its problem may have.
pub(super) const PROBLEM_TYPES: &str = "x-problem-types";

/// A header of an answer; it means the same in every answer.
#[derive(Debug, Clone, Copy)]
pub struct ApiHeader {
    /// The name.
    pub name: &'static str,
    /// The meaning.
    pub description: &'static str,
    /// A regular expression for its value.
    pub pattern: &'static str,
}

/// One answer of an operation: a response object of OpenAPI 3.1, with its status.
#[derive(Debug, Clone)]
pub struct ApiAnswer {
    status: u16,
    description: String,
    /// By media type; empty when the answer has no body.
    content: Map<String, Value>,
    /// By name.
    headers: Map<String, Value>,
    schemas: NamedSchemas,
    /// The values that `type` of a problem may have; empty when the answer is no problem.
    problem_types: Vec<String>,
}

impl ApiAnswer {
    /// An answer without a body.
    pub fn empty(status: u16, description: impl Into<String>) -> Self {
        Self {
            status,
            description: description.into(),
            content: Map::new(),
            headers: Map::new(),
            schemas: NamedSchemas::new(),
            problem_types: Vec::new(),
        }
    }

    /// An answer with a body of this type.
    pub fn json<T: ToSchema>(status: u16, description: impl Into<String>) -> Self {
        Self::empty(status, description).content(JSON, ApiSchema::of::<T>())
    }

    /// The same, with a body of this media type.
    #[must_use]
    pub fn content(mut self, media_type: &str, schema: ApiSchema) -> Self {
        self.content
            .insert(media_type.to_owned(), json!({"schema": schema.value}));
        self.schemas.extend(schema.named);
        self
    }

    /// The same; it always has these headers.
    #[must_use]
    pub fn with(self, headers: &[ApiHeader]) -> Self {
        self.headers(headers, true)
    }

    /// The same; it may have these headers.
    #[must_use]
    pub fn may_have(self, headers: &[ApiHeader]) -> Self {
        self.headers(headers, false)
    }

    /// Adds headers. A header that the answer has already is replaced.
    fn headers(mut self, headers: &[ApiHeader], required: bool) -> Self {
        for ApiHeader {
            name,
            description,
            pattern,
        } in headers
        {
            let schema = json!({"type": "string", "pattern": pattern});
            let header =
                json!({"description": description, "required": required, "schema": schema});
            self.headers.insert((*name).to_owned(), header);
        }
        self
    }
}

/// The description of a method of a path: an operation object of OpenAPI 3.1.
///
/// Every function takes the operation and returns it with an addition, so that a description is one
/// expression.
#[derive(Debug, Clone)]
pub struct ApiOperation {
    /// The members that need no further work: id, summary, description, body, security.
    value: Map<String, Value>,
    parameters: Vec<Value>,
    /// Answers by status, without problems.
    answers: BTreeMap<u16, ApiAnswer>,
    /// Kinds of problems by status: OpenAPI has one answer per status.
    problems: BTreeMap<u16, Vec<ProblemKind>>,
    schemas: NamedSchemas,
    /// Schemas of the body: they allow null.
    pub(super) received: NamedSchemas,
}

impl ApiOperation {
    /// An operation: `id` is its name in generated clients, `summary` one line for readers.
    pub fn new(id: &str, summary: &str) -> Self {
        let value = json!({"operationId": id, "summary": summary});
        Self {
            value: value.as_object().cloned().unwrap_or_default(),
            parameters: Vec::new(),
            answers: BTreeMap::new(),
            problems: BTreeMap::new(),
            schemas: NamedSchemas::new(),
            received: NamedSchemas::new(),
        }
    }

    /// The same, with a description of more than one line.
    #[must_use]
    pub fn describe(mut self, description: &str) -> Self {
        self.value
            .insert("description".to_owned(), description.into());
        self
    }

    /// The same; the caller may have to send a token. The empty alternative says that a service
    /// without a token accepts every caller.
    #[must_use]
    pub fn secured(mut self, scheme: &str) -> Self {
        self.value
            .insert("security".to_owned(), json!([{}, {scheme: []}]));
        self
    }

    /// The same; the caller needs one of these rights, in the extension `x-rights`.
    #[must_use]
    pub fn needs(mut self, rights: &[Right], scope: Scope) -> Self {
        let rights: Vec<_> = rights.iter().map(|right| right.as_str()).collect();
        let needed = json!({"oneOf": rights, "for": scope.as_str()});
        self.value.insert("x-rights".to_owned(), needed);
        self
    }

    /// The same, with a parameter in the path.
    #[must_use]
    pub fn path(self, name: &str, description: &str, schema: ApiSchema) -> Self {
        self.parameter("path", name, description, true, schema)
    }

    /// The same, with an optional parameter in the query.
    #[must_use]
    pub fn query(self, name: &str, description: &str, schema: ApiSchema) -> Self {
        self.parameter("query", name, description, false, schema)
    }

    /// The same, with an optional header of the request.
    #[must_use]
    pub fn header(self, name: &str, description: &str, schema: ApiSchema) -> Self {
        self.parameter("header", name, description, false, schema)
    }

    /// Adds a parameter at a location: `path`, `query` or `header`.
    fn parameter(
        mut self,
        location: &str,
        name: &str,
        description: &str,
        required: bool,
        schema: ApiSchema,
    ) -> Self {
        let parameter = json!({
            "in": location, "name": name, "description": description, "required": required, "schema": schema.value,
        });
        self.parameters.push(parameter);
        self.schemas.extend(schema.named);
        self
    }

    /// The same, with a body. Each call adds a media type.
    #[must_use]
    pub fn body(mut self, media_type: &str, required: bool, schema: ApiSchema) -> Self {
        let body = self
            .value
            .entry("requestBody")
            .or_insert_with(|| json!({"required": required, "content": {}}));
        body["content"][media_type] = json!({"schema": schema.value});
        self.received.extend(schema.named);
        self
    }

    /// The same, with an answer.
    #[must_use]
    pub fn answer(mut self, answer: ApiAnswer) -> Self {
        self.answers.insert(answer.status, answer);
        self
    }

    /// The same; it may be answered with problems of these kinds. The kind decides the status.
    #[must_use]
    pub fn problems(mut self, kinds: &[ProblemKind]) -> Self {
        for kind in kinds {
            let known = self.problems.entry(kind.status()).or_default();
            if !known.contains(kind) {
                known.push(*kind);
            }
        }
        self
    }

    /// The media types of the body; none when the operation takes no body.
    pub(in crate::http) fn media_types(&self) -> Vec<String> {
        let content = self.value.get("requestBody").map(|body| &body["content"]);
        let content = content.and_then(Value::as_object);
        content.map_or_else(Vec::new, |types| types.keys().cloned().collect())
    }

    /// Whether a client can choose among media types of the answer.
    pub(in crate::http) fn is_negotiated(&self) -> bool {
        let success = self.answers.get(&200);
        success.is_some_and(|answer| answer.content.len() > 1)
    }

    /// The names of the parameters at a location: `path`, `query` or `header`.
    pub(in crate::http) fn names(&self, location: &str) -> Vec<String> {
        let at = self.parameters.iter().filter(|each| each["in"] == location);
        at.filter_map(|each| each["name"].as_str().map(str::to_owned))
            .collect()
    }

    /// The operation as JSON. Adds the schemas that it refers to.
    pub(super) fn into_value(self, schemas: &mut NamedSchemas) -> Value {
        let Self {
            mut value,
            parameters,
            mut answers,
            problems,
            schemas: referred,
            received: _,
        } = self;
        schemas.extend(referred);
        answers.extend(
            problems
                .iter()
                .map(|(status, kinds)| (*status, problem(*status, kinds))),
        );
        let mut responses = Map::new();
        for (status, answer) in answers {
            schemas.extend(answer.schemas);
            let mut response = json!({"description": answer.description});
            for (member, map) in [("headers", answer.headers), ("content", answer.content)] {
                if !map.is_empty() {
                    response[member] = map.into();
                }
            }
            if !answer.problem_types.is_empty() {
                // An extension and not a schema of its own: generators would make a type of each.
                response[PROBLEM_TYPES] = answer.problem_types.into();
            }
            responses.insert(status.to_string(), response);
        }
        value.insert("parameters".to_owned(), parameters.into());
        value.insert("responses".to_owned(), responses.into());
        value.into()
    }
}

/// The answer for problems of one status: its `type` is one of these kinds. Headers are those that
/// [`crate::http::problem::respond`] sets.
fn problem(status: u16, kinds: &[ProblemKind]) -> ApiAnswer {
    let types: Vec<_> = kinds.iter().map(ProblemKind::to_string).collect();
    let names: Vec<_> = kinds
        .iter()
        .map(|kind| format!("`{}`", kind.as_str()))
        .collect();
    let mut answer =
        ApiAnswer::empty(status, names.join(", ")).content(MEDIA_TYPE, ApiSchema::of::<Problem>());
    answer.problem_types = types;
    match status {
        // As `problem::respond` does.
        503 => answer.with(&[RETRY_AFTER]),
        409 | 412 => answer.may_have(&[ETAG]),
        _ => answer,
    }
}
