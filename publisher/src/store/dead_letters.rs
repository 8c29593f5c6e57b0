//! What the store keeps about dead letters. Nothing here decides what a letter says.
//!
//! The rows are bounded by number and by bytes. Above a bound, letters that were sent again go
//! first, then those that arrived longest ago.

use contract::dead_letter::{DeadLetter, DeadLetterId};

use crate::store::Store;

/// Dead letters that a store keeps, at most.
pub const MAX_LETTERS: usize = 1_000;
/// Bytes of all dead letters, at most.
pub const MAX_BYTES: u64 = 16 << 20;

/// A dead letter as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLetter {
    /// The letter, without its original.
    pub letter: DeadLetter,
    /// The bytes that are kept of the original.
    pub original: Vec<u8>,
}

/// When a change of a letter has to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterDurability {
    /// Before the call returns: its sender forgets the letter then.
    Now,
    /// With the next group of writes, so that it costs the writes of the embedded store nothing: a lost
    /// one is no loss of configuration. MongoDB makes every letter durable at once.
    Soon,
}

/// What a change of a letter did.
#[derive(Debug, Default)]
pub struct LetterChange {
    /// The letter as it is now, without its original; `None` when the change left no letter.
    pub letter: Option<DeadLetter>,
    /// Whether the store did not have the letter.
    pub is_new: bool,
    /// How many other letters had to go.
    pub evicted: u64,
}

/// How many dead letters the store has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LetterCounts {
    /// All of them.
    pub kept: u64,
    /// Those that were not sent again since they arrived last.
    pub open: u64,
}

/// Which rows are within the bounds, for rows in the order in which they stay.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    letters: usize,
    bytes: u64,
}

impl Bounds {
    /// Whether the next row goes, which has this size.
    pub(super) fn is_over(&mut self, bytes: u64) -> bool {
        self.letters += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.letters > MAX_LETTERS || self.bytes > MAX_BYTES
    }
}

impl StoredLetter {
    /// Whether the store may be above its bounds after this letter replaced the other one.
    pub(super) fn is_more_than(&self, stored: Option<usize>) -> bool {
        stored.is_none_or(|bytes| bytes < self.original.len())
    }
}

impl Store {
    /// Changes one dead letter: `change` gets the stored one, if there is one, and gives the one to
    /// store, or `None` to leave everything as it is. It is called again when another publisher
    /// changed the letter meanwhile.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn change_dead_letter(
        &self,
        id: DeadLetterId,
        durability: LetterDurability,
        change: impl Fn(Option<StoredLetter>) -> Option<StoredLetter> + Send + Sync + 'static,
    ) -> anyhow::Result<LetterChange> {
        match self {
            Self::Embedded(store) => store.change_dead_letter(id, durability, change).await,
            Self::Mongo(store) => store.opened()?.change_dead_letter(id, change).await,
        }
    }

    /// All dead letters without their originals, the one that arrived last first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn dead_letters(&self) -> anyhow::Result<Vec<DeadLetter>> {
        match self {
            Self::Embedded(store) => store.dead_letters().await,
            Self::Mongo(store) => store.opened()?.dead_letters().await,
        }
    }

    /// One dead letter; `None` when the store does not have it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn dead_letter(&self, id: DeadLetterId) -> anyhow::Result<Option<StoredLetter>> {
        match self {
            Self::Embedded(store) => store.dead_letter(id).await,
            Self::Mongo(store) => store.opened()?.dead_letter(id).await,
        }
    }

    /// Removes dead letters, and says how many there were.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn remove_dead_letters(&self, ids: Vec<DeadLetterId>) -> anyhow::Result<u64> {
        match self {
            Self::Embedded(store) => store.remove_dead_letters(ids).await,
            Self::Mongo(store) => store.opened()?.remove_dead_letters(&ids).await,
        }
    }

    /// How many dead letters there are.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn dead_letter_counts(&self) -> anyhow::Result<LetterCounts> {
        match self {
            Self::Embedded(store) => store.dead_letter_counts().await,
            Self::Mongo(store) => store.opened()?.dead_letter_counts().await,
        }
    }
}
