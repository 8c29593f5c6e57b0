//! A map by document id that readers can keep: a clone shares everything with the map, and a change
//! copies a leaf and the few nodes above it.
//!
//! The entries lie in *leaves*, small slices that are found by the hash of the id (linear hashing):
//! a reader follows two or three pointers that every read uses, then one to the leaf. A leaf has the
//! hash of each entry, so that no other entry is touched. A map that grows splits one leaf at a
//! time. Nothing here waits, and nothing is changed that a clone can see.
//!
//! The entries have no order.

use std::{hash::BuildHasher, mem, sync::Arc};

use contract::DocumentId;
use foldhash::fast::RandomState;

/// Entries of a leaf, on average. A change copies each, which counts a reference of each; of fewer,
/// the leaves themselves would take more memory.
const LEAF: usize = 8;
/// Bits of the index of a leaf that one node decides.
const BITS: u32 = 4;
/// Children of a node. A change copies them.
const WIDTH: usize = 1 << BITS;

/// What an [`IdMap`] holds.
pub trait HasId: Clone {
    /// What it is found by. It never changes.
    fn id(&self) -> &DocumentId;
}

/// See the head of the module.
#[derive(Debug, Clone)]
pub struct IdMap<E> {
    /// Seeded at random, so that nobody can choose ids that have one hash.
    hasher: RandomState,
    root: Node<E>,
    /// Nodes above each leaf.
    height: u32,
    /// Number of leaves.
    leaves: usize,
    /// Number of entries.
    len: usize,
}

/// A part of the tree. All leaves are equally far from the root.
#[derive(Debug, Clone)]
enum Node<E> {
    Branch(Arc<[Self]>),
    Leaf(Leaf<E>),
}

/// The entries whose hash names this leaf.
type Leaf<E> = Arc<[Slot<E>]>;

/// An entry, and the hash of its id.
#[derive(Debug, Clone)]
struct Slot<E> {
    hash: u64,
    entry: E,
}

impl<E: HasId> IdMap<E> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of an id.
    #[inline]
    pub fn get(&self, id: &str) -> Option<&E> {
        let hash = self.hasher.hash_one(id);
        let leaf = self.leaf(index(hash, self.leaves));
        let slot = leaf.iter().find(|slot| slot.is(hash, id))?;
        Some(&slot.entry)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &E> {
        let leaves = (0..self.leaves).flat_map(|index| self.leaf(index));
        leaves.map(|slot| &slot.entry)
    }

    /// Takes an entry, in place of that of the same id, which it returns.
    pub fn insert(&mut self, entry: E) -> Option<E> {
        let hash = self.hasher.hash_one(entry.id().as_str());
        let leaf = self.leaf_mut(index(hash, self.leaves));
        let id = entry.id().as_str();
        if let Some(at) = leaf.iter().position(|slot| slot.is(hash, id)) {
            return Some(mem::replace(&mut Arc::make_mut(leaf)[at].entry, entry));
        }
        *leaf = leaf.iter().cloned().chain([Slot { hash, entry }]).collect();
        self.len += 1;
        if self.len > self.leaves * LEAF {
            self.split();
        }
        None
    }

    /// Removes the entry of an id. The leaves stay as many as they were.
    pub fn remove(&mut self, id: &str) -> Option<E> {
        // Nothing is copied for an id that is not there.
        let removed = self.get(id)?.clone();
        let hash = self.hasher.hash_one(id);
        let leaf = self.leaf_mut(index(hash, self.leaves));
        *leaf = leaf
            .iter()
            .filter(|slot| !slot.is(hash, id))
            .cloned()
            .collect();
        self.len -= 1;
        Some(removed)
    }

    /// The entries in which a newer map differs, each as it was and as it is, in no order.
    ///
    /// What both maps share is skipped: where one came of the other by changes, the cost is that of
    /// the changes.
    pub fn differences<'a>(&'a self, newer: &'a Self) -> Vec<(Option<&'a E>, Option<&'a E>)>
    where
        E: PartialEq,
    {
        let (mut before, mut now) = (Vec::new(), Vec::new());
        unshared(Some(&self.root), Some(&newer.root), &mut before, &mut now);
        let current = now.into_iter().filter_map(|entry| {
            let old = self.get(entry.id().as_str());
            (old != Some(entry)).then_some((old, Some(entry)))
        });
        let gone = before.into_iter().filter_map(|entry| {
            let is_gone = newer.get(entry.id().as_str()).is_none();
            is_gone.then_some((Some(entry), None))
        });
        current.chain(gone).collect()
    }

    #[inline]
    fn leaf(&self, index: usize) -> &[Slot<E>] {
        let (mut node, mut shift) = (&self.root, self.height * BITS);
        loop {
            match node {
                Node::Leaf(slots) => return slots,
                Node::Branch(children) => {
                    shift -= BITS;
                    node = &children[child(index, shift)];
                }
            }
        }
    }

    /// A leaf for writing: the nodes above it are copied if a clone has them as well.
    fn leaf_mut(&mut self, index: usize) -> &mut Leaf<E> {
        let (mut node, mut shift) = (&mut self.root, self.height * BITS);
        loop {
            match node {
                Node::Leaf(slots) => return slots,
                Node::Branch(children) => {
                    shift -= BITS;
                    node = &mut Arc::make_mut(children)[child(index, shift)];
                }
            }
        }
    }

    /// Adds a leaf, and moves the entries there that it is the leaf of now. They were in the leaf
    /// whose index has all bits but the highest.
    fn split(&mut self) {
        let added = self.leaves;
        let source = added - (1 << added.ilog2());
        self.leaves += 1;
        let leaf = self.leaf_mut(source);
        let (moved, stay): (Vec<_>, Vec<_>) =
            (leaf.iter().cloned()).partition(|slot| index(slot.hash, added + 1) == added);
        *leaf = stay.into();
        if added == WIDTH.pow(self.height) {
            self.root = Node::Branch([self.root.clone()].into());
            self.height += 1;
        }
        self.root.push(added, self.height * BITS, moved.into());
    }
}

impl<E: HasId> Default for IdMap<E> {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            root: Node::Leaf(Arc::default()),
            height: 0,
            leaves: 1,
            len: 0,
        }
    }
}

/// A map of many entries at once, with leaves and nodes that are as full as they should be. No two
/// entries have the same id.
impl<E: HasId> FromIterator<E> for IdMap<E> {
    fn from_iter<I: IntoIterator<Item = E>>(entries: I) -> Self {
        let hasher = RandomState::default();
        let slot = |entry: E| Slot {
            hash: hasher.hash_one(entry.id().as_str()),
            entry,
        };
        let mut slots: Vec<_> = entries.into_iter().map(slot).collect();
        let len = slots.len();
        let leaves = len.div_ceil(LEAF).max(1);
        slots.sort_unstable_by_key(|slot| index(slot.hash, leaves));
        let mut slots = slots.into_iter().peekable();
        let leaf = |at| {
            let mut leaf = Vec::with_capacity(2 * LEAF);
            while let Some(slot) = slots.next_if(|slot| index(slot.hash, leaves) == at) {
                leaf.push(slot);
            }
            Node::Leaf(leaf.into())
        };
        let mut nodes: Vec<_> = (0..leaves).map(leaf).collect();
        let mut height = 0;
        while nodes.len() > 1 {
            let mut children = nodes.into_iter();
            let mut branches = Vec::new();
            while children.len() > 0 {
                branches.push(Node::Branch(children.by_ref().take(WIDTH).collect()));
            }
            nodes = branches;
            height += 1;
        }
        let root = nodes.pop().expect("there is at least one leaf");
        Self {
            hasher,
            root,
            height,
            leaves,
            len,
        }
    }
}

impl<E: Clone> Node<E> {
    /// Adds the next leaf, below a node that has room for it. `shift` are the bits that this node
    /// and those below it decide.
    fn push(&mut self, index: usize, shift: u32, leaf: Leaf<E>) {
        let Self::Branch(children) = self else {
            unreachable!("a leaf has no room for leaves")
        };
        let shift = shift - BITS;
        match Arc::make_mut(children).get_mut(child(index, shift)) {
            Some(below) => below.push(index, shift, leaf),
            None => {
                let mut below = Self::Leaf(leaf);
                for _level in 0..shift / BITS {
                    below = Self::Branch([below].into());
                }
                *children = children.iter().cloned().chain([below]).collect();
            }
        }
    }

    /// Whether both are the same memory.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Branch(one), Self::Branch(other)) => Arc::ptr_eq(one, other),
            (Self::Leaf(one), Self::Leaf(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Adds all entries below it to a list.
    fn entries<'a>(&'a self, all: &mut Vec<&'a E>) {
        match self {
            Self::Branch(children) => children.iter().for_each(|child| child.entries(all)),
            Self::Leaf(slots) => all.extend(slots.iter().map(|slot| &slot.entry)),
        }
    }
}

impl<E: HasId> Slot<E> {
    fn is(&self, hash: u64, id: &str) -> bool {
        self.hash == hash && self.entry.id().as_str() == id
    }
}

/// The leaf of a hash: its low bits, one bit fewer where there is no such leaf yet.
#[inline]
fn index(hash: u64, leaves: usize) -> usize {
    let mask = leaves.next_power_of_two() - 1;
    let index = hash as usize & mask;
    if index < leaves {
        index
    } else {
        index & (mask >> 1)
    }
}

/// The child of a node in which a leaf is.
#[inline]
fn child(index: usize, shift: u32) -> usize {
    (index >> shift) & (WIDTH - 1)
}

/// Lists what is below two nodes of the same place, without what they share.
fn unshared<'a, E: Clone>(
    old: Option<&'a Node<E>>,
    new: Option<&'a Node<E>>,
    before: &mut Vec<&'a E>,
    now: &mut Vec<&'a E>,
) {
    match (old, new) {
        (Some(old), Some(new)) if old.is_same(new) => {}
        (Some(Node::Branch(old)), Some(Node::Branch(new))) => {
            for at in 0..old.len().max(new.len()) {
                unshared(old.get(at), new.get(at), before, now);
            }
        }
        (old, new) => {
            old.into_iter().for_each(|old| old.entries(before));
            new.into_iter().for_each(|new| new.entries(now));
        }
    }
}

#[cfg(test)]
mod tests;
