//! Places of two keywords that are the same, or one within the other. It is found from the schema
//! alone, before there is any document.

use std::collections::{BTreeSet, HashSet};

use super::{Places, push_token};

/// Most sets of subschemas that are visited. A larger schema is not examined further.
const MAX_STEPS: usize = 10_000;

/// Pointer of a value that both keywords concern: a place of `inner` at or within a place of `outer`,
/// of the same schema. `*` stands for a name or a position that the schema does not name.
///
/// All alternatives of a schema count, as they do for `outer`.
pub(crate) fn overlap<A, B>(outer: &Places<A>, inner: &Places<B>) -> Option<String> {
    let mut seen = HashSet::new();
    // Subschemas of one value, whether it is within a place of `outer`, and its pointer.
    let mut waiting = vec![(BTreeSet::from([0]), false, String::new())];
    while let Some((first, was_within, pointer)) = waiting.pop() {
        let here = of_same_value(outer, inner, first);
        let is_within = was_within || here.iter().any(|index| outer.nodes[*index].mark.is_some());
        if is_within && here.iter().any(|index| inner.nodes[*index].mark.is_some()) {
            return Some(pointer);
        }
        if seen.len() >= MAX_STEPS || !seen.insert((here.clone(), is_within)) {
            continue;
        }
        for (token, next) in steps(outer, inner, &here) {
            let mut below = pointer.clone();
            push_token(&mut below, &token);
            waiting.push((next, is_within, below));
        }
    }
    None
}

/// These subschemas, and all others of the same value.
fn of_same_value<A, B>(
    outer: &Places<A>,
    inner: &Places<B>,
    first: BTreeSet<usize>,
) -> BTreeSet<usize> {
    let mut here = BTreeSet::new();
    let mut waiting: Vec<_> = first.into_iter().collect();
    while let Some(index) = waiting.pop() {
        if here.insert(index) {
            // One schema is read in the same order for both, so a subschema has the same index.
            waiting.extend(&outer.nodes[index].same);
            waiting.extend(&inner.nodes[index].same);
        }
    }
    here
}

/// The subschemas of what is within a value: by each name and position of the schema, and by another
/// one.
fn steps<A, B>(
    outer: &Places<A>,
    inner: &Places<B>,
    here: &BTreeSet<usize>,
) -> Vec<(String, BTreeSet<usize>)> {
    let mut names = BTreeSet::new();
    let mut positions = 0;
    for index in here {
        names.extend(outer.nodes[*index].members.keys());
        let first = outer.nodes[*index].first_elements.len();
        positions = positions.max(first);
    }
    let mut steps = Vec::new();
    let mut add = |token: String, next: BTreeSet<usize>| {
        if !next.is_empty() {
            steps.push((token, next));
        }
    };
    for name in names {
        let of_outer = here.iter().flat_map(|at| outer.nodes[*at].of_member(name));
        let of_inner = here.iter().flat_map(|at| inner.nodes[*at].of_member(name));
        add(name.clone(), of_outer.chain(of_inner).collect());
    }
    // A member that the schema does not name: one that fits no pattern, or one that fits a pattern.
    // Two patterns that a name may fit are judged with the value.
    let nodes = || here.iter().map(|at| (&outer.nodes[*at], &inner.nodes[*at]));
    let any = || nodes().flat_map(|(one, other)| one.any_member.iter().chain(&other.any_member));
    let other =
        nodes().flat_map(|(one, other)| one.other_members.iter().chain(&other.other_members));
    add("*".to_owned(), other.chain(any()).copied().collect());
    for (one, other) in nodes() {
        for ((_pattern, one), (_same, other)) in
            one.pattern_members.iter().zip(&other.pattern_members)
        {
            let fitting = one.iter().chain(other).chain(any());
            add("*".to_owned(), fitting.copied().collect());
        }
    }
    for at in 0..=positions {
        let of_outer = here
            .iter()
            .flat_map(|index| outer.nodes[*index].of_element(at));
        let of_inner = here
            .iter()
            .flat_map(|index| inner.nodes[*index].of_element(at));
        let token = if at == positions {
            "*".to_owned()
        } else {
            at.to_string()
        };
        add(token, of_outer.chain(of_inner).collect());
    }
    steps
}
