//! OpenAPI 3.1 documents, put together operation by operation.
//!
//! Schemas come from the types that are read and written. Which answers there are nobody can
//! derive: each service says it of each of its operations. Nothing here knows a web framework, or
//! serves anything.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::{ToSchema, openapi::RefOr};

/// How the derive calls what is an alias of it.
const NUMBER: &str = "u64";

type Schemas = BTreeMap<String, Value>;

/// A schema, and those that it refers to.
#[derive(Debug, Clone)]
pub struct ApiSchema {
    value: Value,
    named: Schemas,
}

impl ApiSchema {
    /// The schema of a type, by reference.
    pub fn of<T: ToSchema>() -> Self {
        Self::spelled::<T>(false)
    }

    /// The same for what is given to a service, where a member may be null as well as left out.
    pub fn given<T: ToSchema>() -> Self {
        Self::spelled::<T>(true)
    }

    fn spelled<T: ToSchema>(nulls: bool) -> Self {
        let mut all = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut all);
        let named = all.into_iter().filter(|(name, _schema)| name != NUMBER);
        let named = named
            .map(|(name, schema)| (name, spelled(&schema, nulls)))
            .collect();
        Self {
            value: reference("schemas", &T::name()),
            named,
        }
    }

    /// The same, which also refers to that of a type parameter.
    #[must_use]
    pub fn knowing<T: ToSchema>(mut self) -> Self {
        self.named.extend(Self::of::<T>().named);
        self
    }

    /// The schema of newline-delimited JSON, whose lines are each one of several: to a schema it is
    /// a list (as in OpenAPI 3.2).
    pub fn lines<const N: usize>(lines: [Self; N]) -> Self {
        let named = lines.iter().flat_map(|line| line.named.clone()).collect();
        let one_of: Vec<_> = lines.into_iter().map(|line| line.value).collect();
        Self {
            value: json!({"type": "array", "items": {"oneOf": one_of}, "description": "One item per line"}),
            named,
        }
    }
}

impl From<Value> for ApiSchema {
    fn from(value: Value) -> Self {
        Self {
            value,
            named: Schemas::new(),
        }
    }
}

/// A header of an answer, the same wherever it is.
#[derive(Debug, Clone, Copy)]
pub struct ApiHeader {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub description: &'static str,
    /// What it looks like.
    pub pattern: &'static str,
}

/// One answer of an operation.
#[derive(Debug, Clone)]
pub struct ApiAnswer {
    status: u16,
    description: String,
    content: Map<String, Value>,
    headers: Map<String, Value>,
    schemas: Schemas,
}

impl ApiAnswer {
    /// An answer without a body.
    pub fn empty(status: u16, description: impl Into<String>) -> Self {
        let (content, headers) = (Map::new(), Map::new());
        Self {
            status,
            description: description.into(),
            content,
            headers,
            schemas: Schemas::new(),
        }
    }

    /// An answer with a body of this type.
    pub fn json<T: ToSchema>(status: u16, description: impl Into<String>) -> Self {
        Self::empty(status, description).content("application/json", ApiSchema::of::<T>())
    }

    /// The same, with a body of this media type.
    #[must_use]
    pub fn content(mut self, media_type: &str, schema: ApiSchema) -> Self {
        self.content
            .insert(media_type.to_owned(), json!({"schema": schema.value}));
        self.schemas.extend(schema.named);
        self
    }

    /// The same, always with these headers.
    #[must_use]
    pub fn with(self, headers: &[ApiHeader]) -> Self {
        self.headed(headers, true)
    }

    /// The same, sometimes with these headers.
    #[must_use]
    pub fn may_have(self, headers: &[ApiHeader]) -> Self {
        self.headed(headers, false)
    }

    fn headed(mut self, headers: &[ApiHeader], required: bool) -> Self {
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

/// What a method of a path does.
#[derive(Debug, Clone)]
pub struct ApiOperation {
    value: Map<String, Value>,
    parameters: Vec<Value>,
    answers: BTreeMap<u16, ApiAnswer>,
    problems: BTreeMap<u16, Vec<&'static str>>,
    schemas: Schemas,
    given: Schemas,
}

impl ApiOperation {
    /// An operation with a name for generated clients, and a line for people.
    pub fn new(id: &str, summary: &str) -> Self {
        let said = json!({"operationId": id, "summary": summary});
        Self {
            value: said.as_object().cloned().unwrap_or_default(),
            parameters: Vec::new(),
            answers: BTreeMap::new(),
            problems: BTreeMap::new(),
            schemas: Schemas::new(),
            given: Schemas::new(),
        }
    }

    /// The same, with more to say.
    #[must_use]
    pub fn describe(mut self, description: &str) -> Self {
        self.value
            .insert("description".to_owned(), description.into());
        self
    }

    /// The same, whose caller may have to show a token.
    #[must_use]
    pub fn secured(mut self, scheme: &str) -> Self {
        self.value
            .insert("security".to_owned(), json!([{}, {scheme: []}]));
        self
    }

    /// The same, with a part of its path.
    #[must_use]
    pub fn path(self, name: &str, description: &str, schema: ApiSchema) -> Self {
        self.parameter("path", name, description, true, schema)
    }

    /// The same, with a member of its query.
    #[must_use]
    pub fn query(self, name: &str, description: &str, schema: ApiSchema) -> Self {
        self.parameter("query", name, description, false, schema)
    }

    /// The same, with a header of its request.
    #[must_use]
    pub fn header(self, name: &str, description: &str, schema: ApiSchema) -> Self {
        self.parameter("header", name, description, false, schema)
    }

    fn parameter(
        mut self,
        place: &str,
        name: &str,
        description: &str,
        required: bool,
        schema: ApiSchema,
    ) -> Self {
        let parameter = json!({
            "in": place, "name": name, "description": description, "required": required, "schema": schema.value,
        });
        self.parameters.push(parameter);
        self.schemas.extend(schema.named);
        self
    }

    /// The same, with a body; each call adds a media type.
    #[must_use]
    pub fn body(mut self, media_type: &str, required: bool, schema: ApiSchema) -> Self {
        let body = self
            .value
            .entry("requestBody")
            .or_insert_with(|| json!({"required": required, "content": {}}));
        body["content"][media_type] = json!({"schema": schema.value});
        self.given.extend(schema.named);
        self
    }

    /// The same, with an answer.
    #[must_use]
    pub fn answer(mut self, answer: ApiAnswer) -> Self {
        self.answers.insert(answer.status, answer);
        self
    }

    /// The same, with problems of these kinds under a status.
    #[must_use]
    pub fn problem(mut self, status: u16, kinds: &[&'static str]) -> Self {
        let known = self.problems.entry(status).or_default();
        known.extend(kinds);
        self
    }

    fn into_value(
        self,
        problem: impl Fn(u16, &[&str]) -> ApiAnswer,
        schemas: &mut Schemas,
    ) -> Value {
        let Self {
            mut value,
            parameters,
            mut answers,
            problems,
            schemas: mine,
            given: _,
        } = self;
        schemas.extend(mine);
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
            responses.insert(status.to_string(), response);
        }
        value.insert("parameters".to_owned(), parameters.into());
        value.insert("responses".to_owned(), responses.into());
        value.into()
    }
}

/// A document under way.
#[derive(Debug)]
pub struct ApiDocument {
    info: Value,
    paths: BTreeMap<String, Map<String, Value>>,
    schemas: Schemas,
    /// Of those the ones that are given to the service: they allow more.
    given: Schemas,
    components: Map<String, Value>,
    problem: fn(u16, &[&str]) -> ApiAnswer,
}

impl ApiDocument {
    /// A document without operations. `problem` is what the service answers when it refuses, for a
    /// status and kinds.
    pub fn new(title: &str, description: &str, problem: fn(u16, &[&str]) -> ApiAnswer) -> Self {
        let license = json!({"name": "Apache-2.0", "identifier": "Apache-2.0"});
        let version = env!("CARGO_PKG_VERSION");
        Self {
            info: json!({"title": title, "version": version, "description": description, "license": license}),
            paths: BTreeMap::new(),
            schemas: Schemas::new(),
            given: Schemas::new(),
            components: Map::new(),
            problem,
        }
    }

    /// The same, with a token that some operations ask for, in a header.
    #[must_use]
    pub fn token(mut self, scheme: &str, header: &str, description: &str) -> Self {
        let token =
            json!({"type": "apiKey", "in": "header", "name": header, "description": description});
        self.components
            .insert("securitySchemes".to_owned(), json!({scheme: token}));
        self
    }

    /// The same, with what a method of a path does.
    #[must_use]
    pub fn operation(mut self, method: &str, path: &str, operation: ApiOperation) -> Self {
        self.given.extend(operation.given.clone());
        let value = operation.into_value(self.problem, &mut self.schemas);
        self.paths
            .entry(path.to_owned())
            .or_default()
            .insert(method.to_owned(), value);
        self
    }

    /// The whole document.
    pub fn finish(mut self) -> Value {
        self.schemas.extend(self.given);
        self.components
            .insert("schemas".to_owned(), json!(self.schemas));
        json!({"openapi": "3.1.0", "info": self.info, "paths": self.paths, "components": self.components})
    }
}

/// Problems of these kinds: RFC 9457, with a type that is one of them.
pub fn problem<T: ToSchema>(status: u16, kinds: &[&str]) -> ApiAnswer {
    let types: Vec<_> = kinds
        .iter()
        .map(|kind| format!("urn:confcast:problem:{kind}"))
        .collect();
    let description = kinds
        .iter()
        .map(|kind| format!("`{kind}`"))
        .collect::<Vec<_>>()
        .join(", ");
    let ApiSchema { mut value, named } = ApiSchema::of::<T>();
    value["properties"] = json!({"type": {"enum": types}, "status": {"const": status}});
    ApiAnswer::empty(status, description)
        .content("application/problem+json", ApiSchema { value, named })
}

fn spelled(schema: &RefOr<utoipa::openapi::Schema>, nulls: bool) -> Value {
    let mut value =
        serde_json::to_value(schema).expect("a schema has string keys and finite numbers only");
    mend(&mut value, nulls);
    value
}

/// What the derive cannot know: a member without a value is left out, not null, and an alias of a
/// number is a number.
fn mend(value: &mut Value, nulls: bool) {
    match value {
        Value::Object(members) => {
            if !nulls && let Some(Value::Array(forms)) = members.get_mut("type") {
                forms.retain(|form| form != "null");
                if let [only] = &mut forms[..] {
                    members["type"] = only.take();
                }
            }
            let null = json!({"type": "null"});
            if !nulls
                && let Some(Value::Array(forms)) = members.get_mut("oneOf")
                && let [form, other] = &mut forms[..]
                && *other == null
                && let Value::Object(form) = form.take()
            {
                members.remove("oneOf");
                members.extend(form);
            }
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
                members.insert("maximum".to_owned(), u64::MAX.into());
            }
            members.values_mut().for_each(|value| mend(value, nulls));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| mend(value, nulls)),
        _ => {}
    }
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}
