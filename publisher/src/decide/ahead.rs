//! What can be decided about a write before its transaction.
//!
//! The group of a transaction is evaluated by one task, so whatever needs nothing of the transaction
//! is evaluated in the request: a value that is refused, and the cost of a large value, then delay
//! no other write. A value that was checked here is taken in the transaction as it is, while the
//! document is still the one that it was made of.

use std::sync::Arc;

use contract::{
    CanonicalJson, Crc, Document, Expected, Revision, references::Reference, secrets::SEALED_MEMBER,
};

use crate::decide::{
    Action, NewValue, Rules, Write, WriteError, check_expected, references::Searched,
};

/// What was found out before the transaction.
#[derive(Debug, Clone)]
pub enum Checked {
    /// The value is valid.
    Valid {
        /// The new value, not yet sealed.
        value: NewValue,
        /// The document that the value was made of; `None` when it depends on no document.
        made_of: Option<(Revision, Crc)>,
        /// What the value refers to.
        references: Arc<[Reference]>,
    },
    /// Nothing referred to the document of a deletion, when it was searched.
    Unreferenced(Arc<Searched>),
    /// The document changed each time between check and transaction, so the transaction checks,
    /// whatever the size.
    InTransaction,
}

impl Checked {
    /// The value, if it is still the value of the write.
    pub(super) fn value_for(&self, stored: Option<&Document>) -> Option<&NewValue> {
        let Self::Valid { value, made_of, .. } = self else {
            return None;
        };
        let stored = stored.map(|stored| (stored.revision(), stored.crc()));
        (made_of.is_none() || *made_of == stored).then_some(value)
    }

    /// The search for what refers to the document of a deletion.
    pub(super) fn searched(&self) -> Option<Arc<Searched>> {
        match self {
            Self::Unreferenced(searched) => Some(searched.clone()),
            _other => None,
        }
    }

    /// The references of a value, if this is the one that was checked.
    pub(super) fn references_of(&self, value: &[u8]) -> Option<Arc<[Reference]>> {
        match self {
            Self::Valid {
                value: checked,
                references,
                ..
            } if checked.is(value) => Some(references.clone()),
            _other => None,
        }
    }

    /// Bytes that the value takes besides those of the write.
    pub fn size(&self) -> usize {
        match self {
            Self::Valid {
                value,
                made_of: Some(_),
                ..
            } => value.size(),
            // A draft is another copy, with the sealed form in it.
            Self::Valid {
                value: value @ NewValue::Draft(_),
                ..
            } => value.size(),
            _ => 0,
        }
    }
}

impl Write {
    /// Whether a stored document is in the expected state.
    pub fn expects(&self, stored: &Document) -> bool {
        check_expected(&self.expected, Some(stored)).is_ok()
    }

    /// Whether the new value depends on the stored document.
    pub fn needs_stored(&self) -> bool {
        match self.action {
            Action::Patch(_) => true,
            Action::Put(_) => self.expected != Expected::Absent,
            Action::Create(_) | Action::Replace(_) | Action::Delete | Action::Rewrap => false,
        }
    }

    /// Whether the check of the new value depends on the stored document: the value may be made of it,
    /// or have secrets of it at other places.
    pub fn checks_stored(&self) -> bool {
        let has_sealed = |given: &CanonicalJson| given.as_str().contains(SEALED_MEMBER);
        self.needs_stored() || matches!(&self.action, Action::Replace(given) if has_sealed(given))
    }
}

impl Rules {
    /// Evaluates a write before its transaction, with the document as it is stored now, if that was
    /// read. The value is made of it only where [`Write::needs_stored`]. `None` leaves everything to the transaction.
    ///
    /// # Errors
    /// When the new value breaks a constraint.
    pub fn check_ahead(
        &self,
        write: &Write,
        stored: Option<&Document>,
    ) -> Result<Option<Checked>, WriteError> {
        let made_of = match stored.filter(|_stored| write.needs_stored()) {
            // The transaction refuses the write, at no cost.
            None if write.needs_stored() => return Ok(None),
            None => None,
            Some(stored) if check_expected(&write.expected, Some(stored)).is_err() => {
                return Ok(None);
            }
            Some(stored) => Some(stored),
        };
        let Some((value, references)) = self.new_value(write, made_of, stored)? else {
            return Ok(None);
        };
        Ok(Some(Checked::Valid {
            references: references.into(),
            value,
            made_of: made_of.map(|stored| (stored.revision(), stored.crc())),
        }))
    }
}
