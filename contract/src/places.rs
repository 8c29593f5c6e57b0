//! The places of a schema that have a keyword of ours: `x-ref`, `x-secret`, `x-secret-ref`.
//!
//! JSON Schema says of a value by many keywords: `properties`, `items`, `$ref`, `allOf`, `if` and
//! others. [`Places`] follows all of them and finds the values to which a subschema with the keyword
//! may apply. Whether a conditional subschema does apply to a value is not decided here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

mod misspelled;
mod overlap;
mod pattern;
mod reader;

use pattern::Pattern;
use reader::Reader;

pub(crate) use overlap::overlap;

/// Most subschemas that the places of a schema have.
const MAX_NODES: usize = 10_000;

/// Where a schema has a keyword, and what the keyword says there.
#[derive(Debug)]
pub(crate) struct Places<M> {
    pub(crate) nodes: Vec<Node<M>>,
    /// Whether some place applies only to some values.
    pub(crate) conditional: bool,
}

/// What the value of a keyword says: a mark, or nothing.
///
/// # Errors
/// Why the keyword cannot have this value; it follows the name of the keyword in a sentence.
pub(crate) type ReadMark<M> = fn(&Value) -> Result<Option<M>, &'static str>;

/// A subschema. Each list holds subschemas by their index.
#[derive(Debug)]
pub(crate) struct Node<M> {
    /// What its keyword says.
    pub(crate) mark: Option<M>,
    /// Those of the same value.
    pub(crate) same: Vec<usize>,
    /// Those of the members of an object, by name.
    pub(crate) members: BTreeMap<String, Vec<usize>>,
    /// Those of the members whose name fits a pattern.
    pub(crate) pattern_members: Vec<(Pattern, Vec<usize>)>,
    /// Those of the members that `members` does not name and no pattern fits.
    pub(crate) other_members: Vec<usize>,
    /// Those of any member.
    pub(crate) any_member: Vec<usize>,
    /// Those of the first elements of an array, by position.
    pub(crate) first_elements: Vec<Option<usize>>,
    /// Those of the elements after `first_elements`.
    pub(crate) other_elements: Vec<usize>,
    /// Those of any element.
    pub(crate) any_element: Vec<usize>,
}

impl<M> Node<M> {
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
        let listed = listed.chain(self.members.values().flatten());
        let patterns = self.pattern_members.iter();
        listed
            .chain(patterns.flat_map(|(_pattern, inner)| inner))
            .copied()
    }

    /// Those of the element at this position.
    fn of_element(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let first = self.first_elements.get(at);
        let other = match first {
            Some(_by_position) => &[][..],
            None => &self.other_elements,
        };
        let by_position = first.into_iter().flatten();
        by_position.chain(other).chain(&self.any_element).copied()
    }

    /// Those of the member of this name.
    fn of_member<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        let named = self.members.get(name);
        let patterns = self.pattern_members.iter();
        let fitting = patterns.filter(|(pattern, _inner)| pattern.may_fit(name));
        let is_other = named.is_none()
            && !self
                .pattern_members
                .iter()
                .any(|(pattern, _inner)| pattern.fits(name));
        let other = self.other_members.iter().filter(move |_index| is_other);
        let named = named.into_iter().flatten().chain(other);
        named
            .chain(fitting.flat_map(|(_pattern, inner)| inner))
            .chain(&self.any_member)
            .copied()
    }
}

// Not derived: a mark has no default.
impl<M> Default for Node<M> {
    fn default() -> Self {
        Self {
            mark: None,
            same: Vec::new(),
            members: BTreeMap::new(),
            pattern_members: Vec::new(),
            other_members: Vec::new(),
            any_member: Vec::new(),
            first_elements: Vec::new(),
            other_elements: Vec::new(),
            any_element: Vec::new(),
        }
    }
}

/// Why the places of a schema cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacesError {
    /// The keyword cannot have this value.
    #[error("{keyword} at {pointer} {reason}")]
    Value {
        /// The keyword.
        keyword: &'static str,
        /// Pointer to the keyword in the schema.
        pointer: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No value is found at this place of the schema, so the keyword would count for nothing.
    #[error(
        "{keyword} at {pointer} counts for no value of a document; say it where the value itself is \
         described, as in properties or items"
    )]
    Lost {
        /// The keyword.
        keyword: &'static str,
        /// Pointer to the keyword in the schema.
        pointer: String,
    },
    /// A keyword that JSON Schema does not know looks like one of ours.
    #[error("{pointer} of the schema is no keyword; {meant:?} is probably meant")]
    Misspelled {
        /// Pointer to the keyword in the schema.
        pointer: String,
        /// The keyword that it looks like.
        meant: &'static str,
    },
    /// Part of the schema cannot be found within it.
    #[error(
        "{keyword} is used in a schema whose $ref {reference:?} is not followed; refer to a part of the \
         same schema, as in #/$defs/name"
    )]
    Elsewhere {
        /// The keyword.
        keyword: &'static str,
        /// The reference to the part.
        reference: String,
    },
    /// The schema is too large.
    #[error("{0} is used in a schema of more than {MAX_NODES} subschemas")]
    TooLarge(&'static str),
}

impl<M> Places<M> {
    /// Reads the places of a schema; `None` when it has none.
    ///
    /// # Errors
    /// When a keyword has a wrong value, or the schema has parts that cannot be followed.
    pub(crate) fn of_schema(
        schema: &Value,
        keyword: &'static str,
        mark: ReadMark<M>,
    ) -> Result<Option<Self>, PlacesError> {
        misspelled::refuse_misspelled(schema)?;
        let Some(read) = Reader::read(schema, keyword, mark)? else {
            return Ok(None);
        };
        let mut places = Self {
            nodes: read.nodes,
            conditional: read.conditional,
        };
        places.prune();
        let has_places = places.marks().next().is_some();
        Ok(has_places.then_some(places))
    }

    /// What the keywords say, in no order.
    pub(crate) fn marks(&self) -> impl Iterator<Item = &M> {
        self.nodes.iter().filter_map(|node| node.mark.as_ref())
    }

    /// Calls `found` with pointer, value and mark of each place of a value. A value with several
    /// marks is found several times.
    pub(crate) fn visit<'s, 'v>(
        &'s self,
        value: &'v Value,
        mut found: impl FnMut(&str, &'v Value, &'s M),
    ) {
        self.visit_at(value, &mut String::new(), vec![0], &mut found);
    }

    /// Removes what leads to no place, so that values are visited only where there may be one.
    fn prune(&mut self) {
        let mut useful: Vec<bool> = self.nodes.iter().map(|node| node.mark.is_some()).collect();
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
            for (_pattern, inner) in &mut node.pattern_members {
                keep(inner);
            }
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

    fn visit_at<'s, 'v>(
        &'s self,
        value: &'v Value,
        pointer: &mut String,
        subschemas: Vec<usize>,
        found: &mut impl FnMut(&str, &'v Value, &'s M),
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
            if let Some(mark) = &node.mark {
                found(pointer, value, mark);
            }
        }
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let inner = here
                        .iter()
                        .flat_map(|index| self.nodes[*index].of_member(name));
                    self.visit_inner(inner.collect(), value, name, pointer, found);
                }
            }
            Value::Array(elements) => {
                for (at, value) in elements.iter().enumerate() {
                    let inner = here
                        .iter()
                        .flat_map(|index| self.nodes[*index].of_element(at));
                    self.visit_inner(inner.collect(), value, &at.to_string(), pointer, found);
                }
            }
            _scalar => {}
        }
    }

    fn visit_inner<'s, 'v>(
        &'s self,
        subschemas: Vec<usize>,
        value: &'v Value,
        name: &str,
        pointer: &mut String,
        found: &mut impl FnMut(&str, &'v Value, &'s M),
    ) {
        if subschemas.is_empty() {
            return;
        }
        let length = pointer.len();
        push_token(pointer, name);
        self.visit_at(value, pointer, subschemas, found);
        pointer.truncate(length);
    }
}

/// Adds a token to a JSON pointer (RFC 6901 section 3).
pub(crate) fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
}
