//! Reading the subschemas of a schema, each once, with the places that they apply to.
//!
//! What is not in the schema itself is never fetched.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{MAX_NODES, Node, PlacesError, ReadMark, push_token};

/// Whether any object has the keyword, wherever it stands.
fn has_keyword(schema: &Value, keyword: &str) -> bool {
    match schema {
        Value::Object(members) => {
            members.contains_key(keyword)
                || members.values().any(|inner| has_keyword(inner, keyword))
        }
        Value::Array(elements) => elements.iter().any(|inner| has_keyword(inner, keyword)),
        _scalar => false,
    }
}

/// Reads the subschemas of a schema, each once.
pub(super) struct Reader<'a, M> {
    schema: &'a Value,
    keyword: &'static str,
    mark: ReadMark<M>,
    /// Index of each subschema, by its pointer.
    indexes: HashMap<String, usize>,
    /// Those that are not read yet.
    waiting: Vec<(usize, String)>,
    pub(super) nodes: Vec<Node<M>>,
    /// Whether some place applies only to some values.
    pub(super) conditional: bool,
}

impl<'a, M> Reader<'a, M> {
    /// Reads a schema; `None` when it does not have the keyword.
    pub(super) fn read(
        schema: &'a Value,
        keyword: &'static str,
        mark: ReadMark<M>,
    ) -> Result<Option<Self>, PlacesError> {
        if !has_keyword(schema, keyword) {
            return Ok(None);
        }
        let mut reader = Self {
            schema,
            keyword,
            mark,
            indexes: HashMap::new(),
            waiting: Vec::new(),
            nodes: Vec::new(),
            conditional: false,
        };
        // The whole schema is the first.
        reader.index(String::new());
        while let Some((index, pointer)) = reader.waiting.pop() {
            reader.nodes[index] = reader.node(&pointer)?;
        }
        Ok(Some(reader))
    }

    fn index(&mut self, pointer: String) -> usize {
        if let Some(index) = self.indexes.get(&pointer) {
            return *index;
        }
        let index = self.nodes.len();
        self.nodes.push(Node::default());
        self.indexes.insert(pointer.clone(), index);
        self.waiting.push((index, pointer));
        index
    }

    fn node(&mut self, pointer: &str) -> Result<Node<M>, PlacesError> {
        if self.nodes.len() > MAX_NODES {
            return Err(PlacesError::TooLarge(self.keyword));
        }
        let schema = self.schema;
        let mut node = Node::default();
        // `true` and `false` are schemas without keywords.
        let Some(Value::Object(keywords)) = schema.pointer(pointer) else {
            return Ok(node);
        };
        if let Some(value) = keywords.get(self.keyword) {
            node.mark = (self.mark)(value).map_err(|reason| PlacesError::Value {
                keyword: self.keyword,
                pointer: below(pointer, self.keyword),
                reason,
            })?;
        }
        for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
            if let Some(reference) = keywords.get(keyword).and_then(Value::as_str)
                && let Some(target) = self.resolve(reference)?
            {
                node.same.push(self.index(target));
            }
        }
        self.same_value(keywords, pointer, &mut node);
        self.members(keywords, pointer, &mut node);
        self.elements(keywords, pointer, &mut node);
        Ok(node)
    }

    /// Subschemas of the same value.
    fn same_value(&mut self, keywords: &Map<String, Value>, pointer: &str, node: &mut Node<M>) {
        for keyword in ["allOf", "anyOf", "oneOf"] {
            for inner in self.list(keywords, pointer, keyword) {
                self.conditional |= keyword != "allOf";
                node.same.push(inner);
            }
        }
        for keyword in ["if", "then", "else"] {
            if let Some(inner) = self.single(keywords, pointer, keyword) {
                self.conditional = true;
                node.same.push(inner);
            }
        }
        for keyword in ["dependentSchemas", "dependencies"] {
            for (_name, inner) in self.named(keywords, pointer, keyword) {
                self.conditional = true;
                node.same.push(inner);
            }
        }
    }

    fn members(&mut self, keywords: &Map<String, Value>, pointer: &str, node: &mut Node<M>) {
        for (name, inner) in self.named(keywords, pointer, "properties") {
            node.members.entry(name).or_default().push(inner);
        }
        for (_pattern, inner) in self.named(keywords, pointer, "patternProperties") {
            self.conditional = true;
            node.any_member.push(inner);
        }
        if let Some(inner) = self.single(keywords, pointer, "additionalProperties") {
            // Not for members of a pattern, which is not compared here.
            self.conditional |= keywords.contains_key("patternProperties");
            node.other_members.push(inner);
        }
        if let Some(inner) = self.single(keywords, pointer, "unevaluatedProperties") {
            self.conditional = true;
            node.any_member.push(inner);
        }
    }

    fn elements(&mut self, keywords: &Map<String, Value>, pointer: &str, node: &mut Node<M>) {
        let first = self.list(keywords, pointer, "prefixItems");
        // Up to draft 2019-09 `items` may be a list, and `additionalItems` is of what follows it.
        let earlier = self.list(keywords, pointer, "items");
        let (first, rest) = if earlier.is_empty() {
            (first, self.single(keywords, pointer, "items"))
        } else {
            (earlier, self.single(keywords, pointer, "additionalItems"))
        };
        node.first_elements = first.into_iter().map(Some).collect();
        node.other_elements.extend(rest);
        for keyword in ["contains", "unevaluatedItems"] {
            if let Some(inner) = self.single(keywords, pointer, keyword) {
                self.conditional = true;
                node.any_element.push(inner);
            }
        }
    }

    fn single(
        &mut self,
        keywords: &Map<String, Value>,
        pointer: &str,
        keyword: &str,
    ) -> Option<usize> {
        keywords.get(keyword)?.as_object()?;
        Some(self.index(below(pointer, keyword)))
    }

    fn list(&mut self, keywords: &Map<String, Value>, pointer: &str, keyword: &str) -> Vec<usize> {
        let length = keywords
            .get(keyword)
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let list = below(pointer, keyword);
        (0..length)
            .map(|at| self.index(below(&list, &at.to_string())))
            .collect()
    }

    fn named(
        &mut self,
        keywords: &Map<String, Value>,
        pointer: &str,
        keyword: &str,
    ) -> Vec<(String, usize)> {
        let Some(Value::Object(schemas)) = keywords.get(keyword) else {
            return Vec::new();
        };
        let list = below(pointer, keyword);
        schemas
            .keys()
            .map(|name| (name.clone(), self.index(below(&list, name))))
            .collect()
    }

    /// The pointer of the part that a `$ref` names; `None` for a part that has no such keyword.
    fn resolve(&self, reference: &str) -> Result<Option<String>, PlacesError> {
        // The schemas of JSON Schema itself know no such keyword.
        if reference.contains("//json-schema.org/") {
            return Ok(None);
        }
        let elsewhere = || PlacesError::Elsewhere {
            keyword: self.keyword,
            reference: reference.chars().take(200).collect(),
        };
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let own = self.schema.get("$id").and_then(Value::as_str);
        if !document.is_empty() && own.map(|id| id.trim_end_matches('#')) != Some(document) {
            return Err(elsewhere());
        }
        if fragment.is_empty() {
            return Ok(Some(String::new()));
        }
        let fragment = percent_decoded(fragment).ok_or_else(elsewhere)?;
        let pointer = if fragment.starts_with('/') {
            Some(fragment).filter(|pointer| self.schema.pointer(pointer).is_some())
        } else {
            anchor(self.schema, &fragment, &mut String::new())
        };
        pointer.map(Some).ok_or_else(elsewhere)
    }
}

/// Pointer to the subschema that has an anchor.
fn anchor(schema: &Value, name: &str, pointer: &mut String) -> Option<String> {
    let mut inner = |token: &str, value: &Value| {
        let length = pointer.len();
        push_token(pointer, token);
        let found = anchor(value, name, pointer);
        pointer.truncate(length);
        found
    };
    match schema {
        Value::Object(members) => {
            let named = |keyword| members.get(keyword).and_then(Value::as_str) == Some(name);
            if named("$anchor") || named("$dynamicAnchor") {
                return Some(pointer.clone());
            }
            members
                .iter()
                .find_map(|(token, value)| inner(token, value))
        }
        Value::Array(elements) => {
            let mut elements = elements.iter().enumerate();
            elements.find_map(|(at, value)| inner(&at.to_string(), value))
        }
        _scalar => None,
    }
}

fn below(pointer: &str, token: &str) -> String {
    let mut pointer = pointer.to_owned();
    push_token(&mut pointer, token);
    pointer
}

/// The text of the fragment of a URI (RFC 3986 section 2.1).
fn percent_decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(16 * high + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
