//! What can be wrong with an audit log, and how it is said.

use std::fmt;

use crate::{
    audit::{ChainId, Tip, verify::Retention},
    text::Escaped,
};

/// What is wrong with a chain, or with a record that is in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A line is not a record.
    Unreadable {
        /// Its number, from 1.
        line: u64,
        /// Why.
        reason: String,
    },
    /// A record is not what was written: its content does not have its digest.
    Changed(Tip),
    /// The record before this one is not the one that was before it: it was replaced, or this one was
    /// inserted.
    Unchained(Tip),
    /// A row of the store is not the record of its place.
    Damaged(String),
    /// Further rows or lines cannot be read, besides those that are named.
    FurtherUnreadable {
        /// How many.
        count: usize,
    },
    /// A chain begins with another record than the start of a publisher.
    NotStarted(Tip),
    /// A second chain in a store that has one, and its first record does not say why.
    SecondChain(Tip),
    /// A chain that nobody knew begins before the time of records that are known: it was inserted.
    InsertedChain(Tip),
    /// A record that is known is gone, and only a record of retention says why. Whoever can remove
    /// records can write one.
    Retained {
        /// The record that is known.
        known: Tip,
        /// The record that says that it was removed.
        by: Box<Retention>,
    },
    /// Records were removed although the publisher keeps all of them.
    NoRetention(Box<Retention>),
    /// Records are missing before this one.
    Missing {
        /// The first one that is missing.
        from: u64,
        /// The record that is there instead.
        before: Tip,
    },
    /// A position of the chain has two different records, or a record comes after later ones.
    Repeated(Tip),
    /// A chain begins in the middle, and no record of retention says so.
    NoBeginning(Tip),
    /// The chain ends before a record that is known to have been in it.
    Truncated {
        /// The record that is known.
        known: Tip,
        /// The last record that is there.
        last: u64,
    },
    /// A whole chain is missing that is known to have existed.
    ChainMissing(Tip),
    /// The record at this position is not the one that is known to have been there: the chain was
    /// rewritten, or the store was restored.
    Rewritten(Tip),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |tip: &Tip| format!("record {} of chain {}", tip.sequence, tip.chain);
        match self {
            Self::Unreadable { line, reason } => {
                write!(f, "line {line} is not an audit record: {reason}")
            }
            Self::Damaged(row) => write!(f, "{} is damaged", Escaped(row)),
            Self::FurtherUnreadable { count } => {
                write!(f, "{count} further rows or lines cannot be read")
            }
            Self::NotStarted(tip) => write!(
                f,
                "{} is the first one, and it is not the start of a publisher: the chain was inserted",
                at(tip)
            ),
            Self::SecondChain(tip) => write!(
                f,
                "{} begins another chain in a store that has one, and does not say why",
                at(tip)
            ),
            Self::InsertedChain(tip) => write!(
                f,
                "{} begins a chain that was not known, before the time of records that are known: the \
                 chain was inserted",
                at(tip)
            ),
            Self::Retained { known, by } => write!(
                f,
                "{} is known and is gone: only the retention of {by} says why",
                at(known)
            ),
            Self::NoRetention(by) => write!(
                f,
                "the publisher keeps all records, and there is a retention since the known records: {by}"
            ),
            Self::Changed(tip) => write!(f, "{} was changed: it does not have its digest", at(tip)),
            Self::Unchained(tip) => write!(
                f,
                "{} does not follow the record before it: one of the two was replaced or inserted",
                at(tip)
            ),
            Self::Missing { from, before } => write!(
                f,
                "records of chain {} are missing from {from} up to {}",
                before.chain,
                before.sequence - 1
            ),
            Self::Repeated(tip) => write!(
                f,
                "{} is there twice with different content, or out of order",
                at(tip)
            ),
            Self::NoBeginning(tip) => write!(
                f,
                "the records before {} are missing, and no retention removed them",
                at(tip)
            ),
            Self::Truncated { known, last } => write!(
                f,
                "the end of chain {} is missing: record {} is known, the last one is {last}",
                known.chain, known.sequence
            ),
            Self::ChainMissing(tip) => write!(
                f,
                "chain {} is missing: its record {} is known",
                tip.chain, tip.sequence
            ),
            Self::Rewritten(tip) => write!(
                f,
                "{} is not the one that is known: the chain was rewritten, or the store was restored",
                at(tip)
            ),
        }
    }
}

impl Fault {
    /// The chain that is not whole; `None` where the fault is in no chain, or about a removal.
    pub(super) fn chain(&self) -> Option<&ChainId> {
        match self {
            Self::Unreadable { .. }
            | Self::Damaged(_)
            | Self::FurtherUnreadable { .. }
            | Self::NoRetention(_) => None,
            Self::Changed(tip)
            | Self::Unchained(tip)
            | Self::Repeated(tip)
            | Self::NoBeginning(tip)
            | Self::ChainMissing(tip)
            | Self::Rewritten(tip)
            | Self::NotStarted(tip)
            | Self::SecondChain(tip)
            | Self::InsertedChain(tip)
            | Self::Missing { before: tip, .. }
            | Self::Truncated { known: tip, .. }
            | Self::Retained { known: tip, .. } => Some(&tip.chain),
        }
    }
}
