//! What a projection has to do for each collection, by its position and by what the replica holds, and
//! how much of it one transaction takes. Pure: no clock, no database.

use std::collections::BTreeMap;

use contract::{CollectionName, Digest, Epoch, EventData, Replaced, Revision};

use crate::rows::Position;

/// Changes that one transaction takes at most, unless a change set is larger.
const MAX_CHANGES: usize = 1_000;
/// Bytes of their values at most, unless a change set is larger.
const MAX_BYTES: usize = 8 << 20;

/// What the replica holds of a collection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held<'a> {
    /// The history that it follows.
    pub(crate) epoch: Epoch,
    /// The lineages that the store had before.
    pub(crate) replaces: &'a Replaced,
    /// The watermark.
    pub(crate) revision: Revision,
    /// Number and digest of its documents, where they are exactly those of `revision`.
    pub(crate) settled: Option<(u64, Digest)>,
    /// The revision after which the replica still has every change.
    pub(crate) changes_after: Revision,
}

/// What is to be done for a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing: the rows are those of the replica.
    None,
    /// Nothing: the database is further than the replica, which catches up.
    Wait,
    /// The changes after the position are written.
    Replay,
    /// The changes after the position are gone: the difference to what was there is written.
    Missed,
    /// Rows and documents are compared, and what differs is written.
    Compare,
    /// The rows are of another store.
    OtherStore(Epoch),
}

/// What is to be done. `position` is `None` for a collection that has none, and `Some(None)` where its
/// row cannot be read.
pub(crate) fn work(position: Option<Option<Position>>, held: &Held<'_>) -> Work {
    let Some(Some(position)) = position else {
        return Work::Compare;
    };
    if position.epoch != held.epoch {
        return if position.epoch.lineage != held.epoch.lineage {
            if held.replaces.includes(position.epoch) {
                Work::Compare
            } else {
                Work::OtherStore(position.epoch)
            }
        } else if position.epoch.counter < held.epoch.counter {
            Work::Compare
        } else {
            Work::Wait
        };
    }
    if position.revision > held.revision {
        return Work::Wait;
    }
    // Also where the process that began has ended: what it wrote is compared like everything else.
    if position.reconciling {
        return Work::Compare;
    }
    if position.revision < held.revision {
        return if position.revision >= held.changes_after {
            Work::Replay
        } else {
            Work::Missed
        };
    }
    let same = (position.count, position.digest);
    match held.settled {
        Some(settled) if position.is_settled() && settled != same => Work::Compare,
        _ => Work::None,
    }
}

/// The changes that one transaction takes: by collection, the revision up to which. Every change set
/// in it is whole, in all collections. `available` has the changes after the positions, in order and
/// without a gap; there is at least one in each list.
pub(crate) fn cut(
    available: &BTreeMap<CollectionName, Vec<EventData>>,
) -> BTreeMap<CollectionName, Revision> {
    // Fast path: nearly always all of it fits.
    let ends = available
        .iter()
        .filter_map(|(name, list)| Some((name.clone(), list.last()?.revision?)));
    let all: BTreeMap<_, _> = ends.collect();
    let (changes, bytes) = size(available, &BTreeMap::new(), &all);
    if changes <= MAX_CHANGES && bytes <= MAX_BYTES {
        return all;
    }
    let mut cut = BTreeMap::new();
    let (mut changes, mut bytes) = (0, 0);
    let next = |cut: &BTreeMap<CollectionName, Revision>, name: &CollectionName| {
        let after = cut.get(name).copied().unwrap_or(0);
        let list = between(available.get(name)?, after, Revision::MAX);
        list.first()?.revision
    };
    loop {
        let mut grown = false;
        for name in available.keys() {
            let Some(revision) = next(&cut, name) else {
                continue;
            };
            let wider = closure(available, &cut, name, revision);
            let (more_changes, more_bytes) = size(available, &cut, &wider);
            let fits = changes + more_changes <= MAX_CHANGES && bytes + more_bytes <= MAX_BYTES;
            if cut.is_empty() || fits {
                cut = wider;
                changes += more_changes;
                bytes += more_bytes;
                grown = true;
            }
        }
        if !grown {
            return cut;
        }
    }
}

/// The cut, extended to a revision and to all parts of every change set that it then has.
fn closure(
    available: &BTreeMap<CollectionName, Vec<EventData>>,
    cut: &BTreeMap<CollectionName, Revision>,
    name: &CollectionName,
    revision: Revision,
) -> BTreeMap<CollectionName, Revision> {
    let mut wider = cut.clone();
    let mut wanted = vec![(name.clone(), revision)];
    while let Some((name, revision)) = wanted.pop() {
        let Some(list) = available.get(&name) else {
            // It is not replayed: its own comparison brings the documents.
            continue;
        };
        let after = wider.get(&name).copied().unwrap_or(0);
        // The parts of a set are complete in what is available, so nothing is beyond its end.
        let mut reached = after;
        for change in between(list, after, revision) {
            reached = change.revision.unwrap_or(reached);
            let parts = change.change_set.iter().flat_map(|set| &set.parts);
            wanted.extend(parts.map(|part| (part.collection.clone(), part.last)));
        }
        if reached > after {
            wider.insert(name, reached);
        }
    }
    wider
}

/// Number and bytes of the changes between two cuts.
fn size(
    available: &BTreeMap<CollectionName, Vec<EventData>>,
    from: &BTreeMap<CollectionName, Revision>,
    to: &BTreeMap<CollectionName, Revision>,
) -> (usize, usize) {
    let new = to.iter().flat_map(|(name, last)| {
        let after = from.get(name).copied().unwrap_or(0);
        let list = available.get(name).map_or(&[][..], Vec::as_slice);
        between(list, after, *last)
    });
    new.fold((0, 0), |(changes, bytes), change| {
        let value = change.config_data.as_ref();
        (
            changes + 1,
            bytes + value.map_or(0, |value| value.as_str().len()),
        )
    })
}

/// The changes of a list after a revision, up to another one. They are in order, so the ones before
/// are not looked at.
fn between(list: &[EventData], after: Revision, last: Revision) -> &[EventData] {
    let until = |end| list.partition_point(|change| change.revision.is_none_or(|at| at <= end));
    list.get(until(after)..until(last)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use contract::{ChangeSet, Operation, SetPart};

    use super::*;

    fn name(text: &str) -> CollectionName {
        text.parse().expect("a name")
    }

    fn epoch(text: &str) -> Epoch {
        text.parse().expect("an epoch")
    }

    fn held(replaces: &Replaced, revision: Revision) -> Held<'_> {
        Held {
            epoch: epoch("0000000a-2"),
            replaces,
            revision,
            settled: Some((1, Digest(1))),
            changes_after: 5,
        }
    }

    fn position(of: &str, revision: Revision) -> Position {
        Position {
            epoch: epoch(of),
            revision,
            count: 1,
            digest: Digest(1),
            settled_at: revision,
            reconciling: false,
        }
    }

    #[test]
    fn what_is_done_follows_from_position_and_replica() {
        let replaces = Replaced::default();
        let held = held(&replaces, 9);
        let work = |position| work(Some(Some(position)), &held);
        let here = |revision| position("0000000a-2", revision);
        assert_eq!(work(here(9)), Work::None);
        assert_eq!(work(here(5)), Work::Replay);
        assert_eq!(work(here(4)), Work::Missed);
        assert_eq!(work(here(10)), Work::Wait, "no row goes back");
        assert_eq!(work(position("0000000a-1", 10)), Work::Compare);
        assert_eq!(work(position("0000000a-3", 1)), Work::Wait);
        let other = epoch("0000000b-1");
        assert_eq!(work(position("0000000b-1", 1)), Work::OtherStore(other));
        let reconciling = Position {
            reconciling: true,
            ..here(9)
        };
        assert_eq!(work(reconciling), Work::Compare);
        let different = Position {
            digest: Digest(2),
            ..here(9)
        };
        assert_eq!(work(different), Work::Compare);
        let not_settled = Position {
            settled_at: 11,
            ..different
        };
        assert_eq!(work(not_settled), Work::None, "it cannot be compared yet");
        assert_eq!(super::work(None, &held), Work::Compare);
        assert_eq!(super::work(Some(None), &held), Work::Compare);
    }

    fn change(collection: &str, revision: Revision, parts: &[(&str, u64, u64)]) -> EventData {
        let parts = parts.iter().map(|(collection, first, last)| SetPart {
            collection: name(collection),
            first: *first,
            last: *last,
        });
        let parts: Vec<_> = parts.collect();
        EventData {
            collection: name(collection),
            op: Operation::Delete,
            id: "x".parse().expect("an id"),
            config_data: None,
            metadata: BTreeMap::new(),
            pub_sub_name: None,
            crc: None,
            revision: Some(revision),
            epoch: None,
            last_set: None,
            change_set: (!parts.is_empty()).then(|| ChangeSet {
                id: "s".into(),
                parts,
            }),
            proof: None,
            config_data_hash: None,
            confirm: None,
            signature: None,
            context: contract::Context::default(),
        }
    }

    #[test]
    fn a_transaction_has_whole_change_sets_and_a_bound() {
        // A set at the bound of A reaches into B, where another set reaches back into A.
        let limit = MAX_CHANGES as u64;
        let across = [("A", limit, limit), ("B", 5, 5)];
        let back = [("B", 3, 3), ("A", limit + 1, limit + 1)];
        let of_a = (1..=limit + 9).map(|revision| match revision {
            _ if revision == limit => change("A", revision, &across),
            _ if revision == limit + 1 => change("A", revision, &back),
            _ => change("A", revision, &[]),
        });
        let of_b = (1..=9).map(|revision| match revision {
            3 => change("B", 3, &back),
            5 => change("B", 5, &across),
            _ => change("B", revision, &[]),
        });
        let available = BTreeMap::from([
            (name("A"), of_a.collect::<Vec<_>>()),
            (name("B"), of_b.collect()),
        ]);
        let first = cut(&available);
        assert!(first[&name("A")] < limit, "the set is not begun: {first:?}");
        assert!(first.get(&name("B")).is_none_or(|last| *last < 3));
        let rest: BTreeMap<_, Vec<_>> = available
            .iter()
            .map(|(name, list)| {
                let after = first.get(name).copied().unwrap_or(0);
                let rest = list.iter().filter(|change| change.revision > Some(after));
                (name.clone(), rest.cloned().collect())
            })
            .collect();
        let second = cut(&rest);
        assert_eq!(
            second,
            BTreeMap::from([(name("A"), limit + 9), (name("B"), 9)])
        );
    }

    #[test]
    fn a_change_set_that_is_larger_than_the_bound_is_one_transaction() {
        let last = MAX_CHANGES as u64 + 50;
        let list = (1..=last).map(|revision| change("A", revision, &[("A", 1, last)]));
        let available = BTreeMap::from([(name("A"), list.collect())]);
        assert_eq!(cut(&available), BTreeMap::from([(name("A"), last)]));
    }
}
