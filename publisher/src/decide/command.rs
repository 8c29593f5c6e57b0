//! The commands that the rules evaluate: a write of one document, or a change set.
//!
//! A command is data only. It was read and checked for its form before; whether it may happen is
//! decided by [`Rules::evaluate`](super::Rules::evaluate).

use std::sync::Arc;

use contract::{CanonicalJson, CollectionName, Context, DocumentId, Expected, audit::EMBEDDED};

use crate::decide::{ChangeSetCommand, Checked, DocumentKey};

/// The unit that waits in the queue and is accepted or refused as a whole.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "most commands are single writes, which need no allocation so"
)]
pub enum Command {
    /// A write of one document.
    Single(Write),
    /// A change set: all of its writes happen, or none.
    ChangeSet(ChangeSetCommand),
}

impl Command {
    /// The writes of the command, in order.
    pub fn writes(&self) -> &[Write] {
        match self {
            Self::Single(write) => std::slice::from_ref(write),
            Self::ChangeSet(set) => &set.writes,
        }
    }

    /// The writes of the command, in order.
    pub fn writes_mut(&mut self) -> &mut [Write] {
        match self {
            Self::Single(write) => std::slice::from_mut(write),
            Self::ChangeSet(set) => &mut set.writes,
        }
    }
}

/// A write of one document.
#[derive(Debug, Clone)]
pub struct Write {
    /// The collection.
    pub collection: CollectionName,
    /// The document.
    pub id: DocumentId,
    /// The requested effect on the document.
    pub action: Action,
    /// The state that the document must have.
    pub expected: Expected,
    /// User, organisation and correlation of the request; part of the change record.
    pub context: Context,
    /// The value that was checked before the transaction, if one was.
    pub checked: Option<Checked>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a write comes from, as the audit log names it. Nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The caller whose name was proven.
    pub actor: Arc<str>,
    /// Whether it gives documents a value back that they had before.
    pub is_rollback: bool,
}

impl Default for Origin {
    /// A service that embeds the publisher.
    fn default() -> Self {
        Self {
            actor: EMBEDDED.into(),
            is_rollback: false,
        }
    }
}

impl Write {
    /// A write whose value was not checked before the transaction.
    pub fn new(
        (collection, id): DocumentKey,
        action: Action,
        expected: Expected,
        context: Context,
    ) -> Self {
        Self {
            collection,
            id,
            action,
            expected,
            context,
            checked: None,
            origin: Origin::default(),
        }
    }

    /// The key of its document.
    pub fn key(&self) -> DocumentKey {
        (self.collection.clone(), self.id.clone())
    }
}

/// The requested effect of a write on its document (requirement A18).
#[derive(Debug, Clone)]
pub enum Action {
    /// Makes a new document; refused when the document exists.
    Create(CanonicalJson),
    /// Gives the document a new value. The stored `metadata` member is merged with the given one,
    /// all other members are replaced. Makes a new document only with [`Expected::Absent`].
    Put(CanonicalJson),
    /// Gives the document exactly this value. Makes a new document only with [`Expected::Absent`].
    Replace(CanonicalJson),
    /// Applies a JSON merge patch (RFC 7396) to the stored value.
    Patch(CanonicalJson),
    /// Deletes the document.
    Delete,
    /// Wraps the secrets of the document with the active key; the values stay as they are.
    Rewrap,
}

impl Action {
    /// Bytes of the value or of the patch that was given.
    pub fn size(&self) -> usize {
        match self {
            Self::Create(given) | Self::Put(given) | Self::Replace(given) | Self::Patch(given) => {
                given.as_str().len()
            }
            Self::Delete | Self::Rewrap => 0,
        }
    }
}
