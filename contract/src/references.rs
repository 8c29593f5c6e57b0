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

use crate::{
    CollectionName, DocumentId,
    places::{Places, PlacesError},
};

/// The keyword of a schema.
const KEYWORD: &str = "x-ref";

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
pub struct ReferenceRules(pub(crate) Places<CollectionName>);

impl ReferenceRules {
    /// Reads the rules of a schema; `None` when it has none.
    ///
    /// # Errors
    /// When an `x-ref` names no collection, or the schema has parts that cannot be followed.
    pub fn of_schema(schema: &Value) -> Result<Option<Self>, PlacesError> {
        let places = Places::of_schema(schema, KEYWORD, |value| {
            let name = value.as_str().and_then(|name| name.parse().ok());
            name.map(Some).ok_or("is not the name of a collection")
        })?;
        Ok(places.map(Self))
    }

    /// The collections that are referred to.
    pub fn targets(&self) -> BTreeSet<&CollectionName> {
        self.0.marks().collect()
    }

    /// Whether a collection is referred to.
    pub fn has_target(&self, collection: &CollectionName) -> bool {
        self.0.marks().any(|target| target == collection)
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
        // Each with the place of its `x-ref`.
        let mut found = BTreeMap::new();
        self.0.visit(value, |pointer, value, target| {
            let place = (pointer.to_owned(), target.as_str().to_owned());
            let ids = ids(value, pointer);
            found.extend(ids.map(|(pointer, id)| {
                let reference = Reference {
                    pointer,
                    collection: target.clone(),
                    id: id.to_owned(),
                };
                (reference, place.clone())
            }));
        });
        if self.0.conditional
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

    /// Whether all paths below a subschema could be listed.
    fn collect_paths(
        &self,
        index: usize,
        target: &CollectionName,
        walk: &mut Walk,
        paths: &mut BTreeSet<Vec<String>>,
    ) -> bool {
        let node = &self.0.nodes[index];
        walk.steps += 1;
        // A value of any depth; or a schema that is not worth the work.
        if walk.steps > MAX_PATH_STEPS
            || walk.open.contains(&index)
            || !node.other_members.is_empty()
            || node
                .pattern_members
                .iter()
                .any(|(_, inner)| !inner.is_empty())
            || !node.any_member.is_empty()
        {
            return false;
        }
        if node.mark.as_ref() == Some(target) {
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

#[cfg(test)]
mod tests;
