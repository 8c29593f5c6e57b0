//! Reading the subschemas of a schema, each once, with the places that they apply to.
//!
//! What is not in the schema itself is never fetched.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{MAX_NODES, Node, Pattern, PlacesError, ReadMark, push_token};

/// Keywords whose subschemas are of the value itself, of its members or of its elements, and are
/// followed.
const FOLLOWED: [&str; 19] = [
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependencies",
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "prefixItems",
    "items",
    "contains",
    "unevaluatedItems",
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
];
/// Keywords whose value is data and no schema.
const DATA: [&str; 5] = ["const", "enum", "default", "examples", "example"];
/// Keywords that keep subschemas for a `$ref`: one that nothing refers to is of no value.
const DEFINITIONS: [&str; 3] = ["$defs", "definitions", "components"];

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

/// Whether a keyword has data, or subschemas that count only where they are referred to.
pub(super) fn is_no_rule(name: &str) -> bool {
    DATA.contains(&name) || DEFINITIONS.contains(&name)
}

/// What the keywords of a schema refer to.
fn references(keywords: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let refer = ["$ref", "$dynamicRef", "$recursiveRef"].into_iter();
    refer.filter_map(|keyword| keywords.get(keyword)?.as_str())
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
        reader.nothing_lost()?;
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
        for reference in references(keywords) {
            if let Some(target) = self.resolve(reference)? {
                node.same.push(self.index(target));
            }
        }
        self.same_value(keywords, pointer, &mut node);
        self.members(keywords, pointer, &mut node);
        self.elements(keywords, pointer, &mut node);
        Ok(node)
    }

    /// Refuses the keyword below one that is not followed, such as `not`, or one that is mistyped: it
    /// would count for nothing without a word.
    fn nothing_lost(&self) -> Result<(), PlacesError> {
        for pointer in self.indexes.keys() {
            let Some(Value::Object(keywords)) = self.schema.pointer(pointer) else {
                continue;
            };
            for (name, value) in keywords {
                // Without a list in `items` it says nothing.
                let is_followed = FOLLOWED.contains(&name.as_str())
                    || (name == "additionalItems"
                        && keywords.get("items").is_some_and(Value::is_array));
                if is_followed || is_no_rule(name) {
                    continue;
                }
                let mut seen = HashSet::new();
                if let Some(pointer) = self.find(value, below(pointer, name), false, &mut seen)? {
                    return Err(PlacesError::Lost {
                        keyword: self.keyword,
                        pointer,
                    });
                }
            }
        }
        Ok(())
    }

    /// Pointer to the keyword in a part of the schema, or in what the part refers to. What is followed
    /// elsewhere is left out, unless the part refers to it.
    fn find(
        &self,
        part: &Value,
        pointer: String,
        is_referred: bool,
        seen: &mut HashSet<String>,
    ) -> Result<Option<String>, PlacesError> {
        if !is_referred && self.indexes.contains_key(&pointer) {
            return Ok(None);
        }
        let inner: Vec<(String, &Value)> = match part {
            Value::Object(members) => {
                if members.contains_key(self.keyword) {
                    return Ok(Some(below(&pointer, self.keyword)));
                }
                for reference in references(members) {
                    if let Some(target) = self.resolve(reference)?
                        && seen.insert(target.clone())
                        && let Some(part) = self.schema.pointer(&target)
                        && let Some(found) = self.find(part, target, true, seen)?
                    {
                        return Ok(Some(found));
                    }
                }
                let rules = members.iter().filter(|(name, _value)| !is_no_rule(name));
                rules.map(|(name, value)| (name.clone(), value)).collect()
            }
            Value::Array(elements) => {
                let elements = elements.iter().enumerate();
                elements
                    .map(|(at, value)| (at.to_string(), value))
                    .collect()
            }
            _scalar => Vec::new(),
        };
        for (token, value) in inner {
            let found = self.find(value, below(&pointer, &token), is_referred, seen)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
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
        for (pattern, inner) in self.named(keywords, pointer, "patternProperties") {
            self.conditional = true;
            let pattern = Pattern::new(&pattern);
            node.pattern_members.push((pattern, vec![inner]));
        }
        if let Some(inner) = self.single(keywords, pointer, "additionalProperties") {
            // A pattern may not be compared here.
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
