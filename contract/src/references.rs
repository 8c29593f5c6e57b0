//! References between documents: the keyword `x-ref` of a JSON Schema, and the references that a
//! value holds by it.
//!
//! `"x-ref": "SkillConfiguration"` in a schema says that the value at its place is the id of a
//! document of that collection, or an array of such ids. Every other kind of value there refers to
//! nothing: which kinds are valid is for the rest of the schema. The keyword is an annotation (JSON
//! Schema 2020-12, section 7.7), so it counts only where its subschema applies to the value.
//!
//! Nothing here knows which documents exist, and no value is checked against its schema here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CollectionName, DocumentId};

mod reader;

use reader::Reader;

/// The keyword of a schema.
const KEYWORD: &str = "x-ref";

/// Most subschemas that the rules of a schema have.
const MAX_NODES: usize = 10_000;
/// Most subschemas that are visited for the list of paths.
const MAX_PATH_STEPS: usize = 10_000;
/// Most paths that [`ReferenceRules::paths`] gives for one collection.
const MAX_PATHS: usize = 32;

/// A reference that a value holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// JSON pointer (RFC 6901) to the id, from the value of the document.
    pub pointer: String,
    /// The collection of the document that is referred to.
    pub collection: CollectionName,
    /// Its id as it is written. It may have no valid form, and then no document has it.
    pub id: String,
}

impl Reference {
    /// The key of the document that is referred to; `None` when no document can have the id.
    pub fn key(&self) -> Option<(CollectionName, DocumentId)> {
        Some((self.collection.clone(), self.id.parse().ok()?))
    }
}

/// A document that refers to another one, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Referrer {
    /// Its collection.
    pub collection: CollectionName,
    /// Its id.
    pub id: DocumentId,
    /// JSON pointer (RFC 6901) to the reference in its value.
    pub pointer: String,
}

/// The documents that refer to a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct Referrers {
    /// By collection, id and pointer; the first ones if there are many.
    pub items: Vec<Referrer>,
    /// Whether there are more.
    pub more: bool,
}

/// A reference to a document that does not exist, or would not exist after a refused write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DanglingReference {
    /// The document that refers.
    #[serde(flatten)]
    pub referrer: Referrer,
    /// What it refers to.
    pub refers_to: ReferredDocument,
    /// Which member of a change set is at fault, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
}

/// The document that a reference is to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
pub struct ReferredDocument {
    /// Its collection.
    pub collection: CollectionName,
    /// Its id as the reference has it: not always the id of any document, and cut after 128
    /// characters.
    pub id: String,
}

/// The places of a schema that apply to a value: a pointer into the value, and the collection of the
/// `x-ref` there.
pub type AppliedPlaces = BTreeSet<(String, String)>;

/// Where the values of a schema hold references.
#[derive(Debug)]
pub struct ReferenceRules {
    nodes: Vec<Node>,
    /// Whether some place applies only to some values: see [`Self::references`].
    conditional: bool,
}

/// A subschema. Each list holds subschemas by their index.
#[derive(Debug, Default)]
struct Node {
    /// The collection of its `x-ref`.
    target: Option<CollectionName>,
    /// Those of the same value.
    same: Vec<usize>,
    /// Those of the members of an object, by name.
    members: BTreeMap<String, Vec<usize>>,
    /// Those of the members that `members` does not name.
    other_members: Vec<usize>,
    /// Those of any member.
    any_member: Vec<usize>,
    /// Those of the first elements of an array, by position.
    first_elements: Vec<Option<usize>>,
    /// Those of the elements after `first_elements`.
    other_elements: Vec<usize>,
    /// Those of any element.
    any_element: Vec<usize>,
}

impl Node {
    fn next(&self) -> impl Iterator<Item = usize> {
        let lists = [
            &self.same,
            &self.other_members,
            &self.any_member,
            &self.other_elements,
            &self.any_element,
        ];
        let listed = lists.into_iter().flatten();
        let listed = listed.chain(self.first_elements.iter().flatten());
        listed.chain(self.members.values().flatten()).copied()
    }
}

/// Why a schema cannot be used for references.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceRulesError {
    /// The value of the keyword is no name of a collection.
    #[error("{KEYWORD} at {pointer} is not the name of a collection")]
    Name {
        /// Pointer to the keyword in the schema.
        pointer: String,
    },
    /// Part of the schema cannot be found within it.
    #[error(
        "{KEYWORD} is used in a schema whose $ref {reference:?} is not followed; refer to a part of the \
         same schema, as in #/$defs/name"
    )]
    Elsewhere {
        /// The reference to the part.
        reference: String,
    },
    /// The schema is too large.
    #[error("{KEYWORD} is used in a schema of more than {MAX_NODES} subschemas")]
    TooLarge,
}

impl ReferenceRules {
    /// Reads the rules of a schema; `None` when it has none.
    ///
    /// # Errors
    /// When an `x-ref` names no collection, or the schema has parts that cannot be followed.
    pub fn of_schema(schema: &Value) -> Result<Option<Self>, ReferenceRulesError> {
        let Some(read) = Reader::read(schema)? else {
            return Ok(None);
        };
        let mut rules = Self {
            nodes: read.nodes,
            conditional: read.conditional,
        };
        rules.prune();
        let has_rules = rules.nodes.iter().any(|node| node.target.is_some());
        Ok(has_rules.then_some(rules))
    }

    /// The collections that are referred to.
    pub fn targets(&self) -> BTreeSet<&CollectionName> {
        let targets = self.nodes.iter().filter_map(|node| node.target.as_ref());
        targets.collect()
    }

    /// Whether a collection is referred to.
    pub fn has_target(&self, collection: &CollectionName) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.any(|node| node.target.as_ref() == Some(collection))
    }

    /// The references of a value, ordered by place.
    ///
    /// `applied` is asked only for a schema with alternatives, such as `oneOf` and `if`. It gives the
    /// places that apply to the value, or `None` when the value is not valid. Then every place
    /// counts that could apply: a document that was stored before its schema changed refers to
    /// others all the same.
    pub fn references(
        &self,
        value: &Value,
        applied: impl FnOnce() -> Option<AppliedPlaces>,
    ) -> Vec<Reference> {
        let mut found = BTreeMap::new();
        let mut pointer = String::new();
        self.visit(value, &mut pointer, vec![0], &mut found);
        if self.conditional
            && !found.is_empty()
            && let Some(applied) = applied()
        {
            found.retain(|_reference, place| applied.contains(place));
        }
        found.into_keys().collect()
    }

    /// The references of a value, as the schema of `validator` applies to it: see
    /// [`Self::references`].
    #[cfg(feature = "jsonschema")]
    pub fn references_by(
        &self,
        validator: &jsonschema::Validator,
        value: &Value,
    ) -> Vec<Reference> {
        self.references(value, || {
            let evaluation = validator.evaluate(value);
            let annotations = evaluation.iter_annotations().filter_map(|found| {
                let target = found.annotations.value().get(KEYWORD)?.as_str()?;
                Some((found.instance_location.to_string(), target.to_owned()))
            });
            let is_valid = evaluation.is_valid();
            is_valid.then(|| annotations.collect())
        })
    }

    /// The paths of members at which values refer to a collection; an array on the way is not part
    /// of a path. `None` when there is no such list: members of any name, arrays of arrays, or
    /// values of any depth.
    pub fn paths(&self, target: &CollectionName) -> Option<BTreeSet<Vec<String>>> {
        let mut paths = BTreeSet::new();
        self.collect_paths(0, target, &mut Walk::default(), &mut paths)
            .then_some(paths)
    }

    /// Removes what leads to no `x-ref`, so that values are visited only where they may refer.
    fn prune(&mut self) {
        let mut useful: Vec<bool> = self
            .nodes
            .iter()
            .map(|node| node.target.is_some())
            .collect();
        loop {
            let mut changed = false;
            for (index, node) in self.nodes.iter().enumerate() {
                if !useful[index] && node.next().any(|next| useful[next]) {
                    useful[index] = true;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        let keep = |list: &mut Vec<usize>| list.retain(|index| useful[*index]);
        for node in &mut self.nodes {
            // A name and a position stay: what is said of the others does not apply to them.
            node.members.values_mut().for_each(keep);
            for first in &mut node.first_elements {
                *first = first.filter(|index| useful[*index]);
            }
            for list in [
                &mut node.same,
                &mut node.other_members,
                &mut node.any_member,
                &mut node.other_elements,
                &mut node.any_element,
            ] {
                keep(list);
            }
        }
    }

    /// Adds the references of a value to which some subschemas apply, each with the place of its
    /// `x-ref`.
    fn visit(
        &self,
        value: &Value,
        pointer: &mut String,
        subschemas: Vec<usize>,
        found: &mut BTreeMap<Reference, (String, String)>,
    ) {
        // All subschemas of this very value. A schema that refers to itself adds nothing twice.
        let mut here = BTreeSet::new();
        let mut waiting = subschemas;
        while let Some(index) = waiting.pop() {
            if here.insert(index) {
                waiting.extend(&self.nodes[index].same);
            }
        }
        for node in here.iter().map(|index| &self.nodes[*index]) {
            if let Some(target) = &node.target {
                let place = (pointer.clone(), target.as_str().to_owned());
                let ids = ids(value, pointer);
                found.extend(ids.map(|(pointer, id)| {
                    let reference = Reference {
                        pointer,
                        collection: target.clone(),
                        id: id.to_owned(),
                    };
                    (reference, place.clone())
                }));
            }
        }
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let inner = here.iter().flat_map(|index| {
                        let node = &self.nodes[*index];
                        let by_name = node.members.get(name).unwrap_or(&node.other_members);
                        by_name.iter().chain(&node.any_member).copied()
                    });
                    self.visit_inner(inner.collect(), value, name, pointer, found);
                }
            }
            Value::Array(elements) => {
                for (at, value) in elements.iter().enumerate() {
                    let inner = here.iter().flat_map(|index| {
                        let node = &self.nodes[*index];
                        let first = node.first_elements.get(at);
                        let other = match first {
                            Some(_by_position) => &[][..],
                            None => &node.other_elements,
                        };
                        let by_position = first.into_iter().flatten();
                        by_position.chain(other).chain(&node.any_element).copied()
                    });
                    self.visit_inner(inner.collect(), value, &at.to_string(), pointer, found);
                }
            }
            _scalar => {}
        }
    }

    fn visit_inner(
        &self,
        subschemas: Vec<usize>,
        value: &Value,
        name: &str,
        pointer: &mut String,
        found: &mut BTreeMap<Reference, (String, String)>,
    ) {
        if subschemas.is_empty() {
            return;
        }
        let length = pointer.len();
        push_token(pointer, name);
        self.visit(value, pointer, subschemas, found);
        pointer.truncate(length);
    }

    /// Whether all paths below a subschema could be listed.
    fn collect_paths(
        &self,
        index: usize,
        target: &CollectionName,
        walk: &mut Walk,
        paths: &mut BTreeSet<Vec<String>>,
    ) -> bool {
        let node = &self.nodes[index];
        walk.steps += 1;
        // A value of any depth; or a schema that is not worth the work.
        if walk.steps > MAX_PATH_STEPS
            || walk.open.contains(&index)
            || !node.other_members.is_empty()
            || !node.any_member.is_empty()
        {
            return false;
        }
        if node.target.as_ref() == Some(target) {
            paths.insert(walk.path.clone());
            if paths.len() > MAX_PATHS {
                return false;
            }
        }
        walk.open.push(index);
        let in_array = walk.in_array;
        let mut complete = node
            .same
            .iter()
            .all(|next| self.collect_paths(*next, target, walk, paths));
        walk.in_array = false;
        for (name, inner) in &node.members {
            walk.path.push(name.clone());
            complete = complete
                && inner
                    .iter()
                    .all(|next| self.collect_paths(*next, target, walk, paths));
            walk.path.pop();
        }
        let first = node.first_elements.iter().flatten();
        for next in first.chain(&node.other_elements).chain(&node.any_element) {
            walk.in_array = true;
            // An array of arrays is no path of names.
            complete = complete && !in_array && self.collect_paths(*next, target, walk, paths);
        }
        walk.in_array = in_array;
        walk.open.pop();
        complete
    }
}

/// The way to a subschema.
#[derive(Default)]
struct Walk {
    path: Vec<String>,
    /// The subschemas on the way.
    open: Vec<usize>,
    /// Whether the value is an element of an array.
    in_array: bool,
    /// How many subschemas were visited.
    steps: usize,
}

/// The ids that a value at an `x-ref` holds, with their pointers.
fn ids<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (String, &'a str)> {
    let one = value.as_str().map(|id| (pointer.to_owned(), id));
    let elements = value.as_array().map_or(&[][..], Vec::as_slice);
    let many = elements
        .iter()
        .enumerate()
        .filter_map(move |(at, element)| Some((format!("{pointer}/{at}"), element.as_str()?)));
    one.into_iter().chain(many)
}

/// Adds a token to a JSON pointer (RFC 6901 section 3).
fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
}

#[cfg(test)]
mod tests;
