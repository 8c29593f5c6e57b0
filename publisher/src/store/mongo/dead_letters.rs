//! Rows of dead letters in MongoDB.
//!
//! Several publishers may change one letter at the same time. Each row has a version, and a row is
//! replaced only where it still has the version that was read.

use anyhow::Context;
use contract::dead_letter::{DeadLetter, DeadLetterId};
use mongodb::bson::{self, Binary, Document as Bdoc, doc, spec::BinarySubtype};
use tokio::time::timeout;

use crate::store::{
    dead_letters::{Bounds, LetterChange, LetterCounts, StoredLetter},
    mongo::{CALL_TIMEOUT, Mongo, TIMED_OUT, call, is_code},
};

/// One row per dead letter: `_id` is its name, `last` when it arrived last, `open` whether it was not
/// sent again since then, `bytes` the size of letter and original together, `letter` the letter as
/// JSON.
pub(super) const DEAD_LETTERS: &str = "_dead_letters";

/// How often a letter is read and written, when other publishers change it at the same time.
const ATTEMPTS: usize = 10;

impl Mongo {
    pub(in crate::store) async fn change_dead_letter(
        &self,
        id: DeadLetterId,
        change: impl Fn(Option<StoredLetter>) -> Option<StoredLetter> + Send + Sync,
    ) -> anyhow::Result<LetterChange> {
        // Always durable: rows are read at majority, and the next arrival has to see this one. Other
        // writes do not wait for it.
        let table = self.table(DEAD_LETTERS);
        for _attempt in 0..ATTEMPTS {
            let row = call(table.find_one(doc! { "_id": id.to_string() })).await?;
            let version = row.as_ref().map(version);
            let stored = row.as_ref().and_then(stored);
            let size = stored.as_ref().map(|stored| stored.original.len());
            let Some(next) = change(stored) else {
                return Ok(LetterChange::default());
            };
            let written = match version {
                None => match call(table.insert_one(row_of(&next, 1)?)).await {
                    Err(error) if is_code(&error, mongo_json::server::DUPLICATE_KEY) => false,
                    inserted => inserted.map(|_done| true)?,
                },
                Some(version) => {
                    let same = doc! { "_id": id.to_string(), "version": version };
                    let next = row_of(&next, version.wrapping_add(1))?;
                    call(table.replace_one(same, next)).await?.matched_count == 1
                }
            };
            if written {
                let evicted = if next.is_more_than(size) {
                    self.evict_dead_letters().await?
                } else {
                    0
                };
                return Ok(LetterChange {
                    evicted,
                    letter: Some(next.letter),
                    is_new: version.is_none(),
                });
            }
        }
        anyhow::bail!("other publishers changed the dead letter {id} all the time")
    }

    /// Removes the rows above the bounds, and says how many they were.
    async fn evict_dead_letters(&self) -> anyhow::Result<u64> {
        let table = self.table(DEAD_LETTERS);
        let over = async {
            let mut rows = table
                .find(doc! {})
                .projection(doc! { "bytes": 1 })
                .sort(doc! { "open": -1, "last": -1, "_id": -1 })
                .await?;
            let mut over = Vec::new();
            let mut bounds = Bounds::default();
            while rows.advance().await? {
                let row = rows.current();
                let bytes = row.get_i64("bytes").unwrap_or_default();
                if bounds.is_over(u64::try_from(bytes).unwrap_or_default()) {
                    over.push(row.get_str("_id")?.to_owned());
                }
            }
            anyhow::Ok(over)
        };
        let over = timeout(CALL_TIMEOUT, over).await.context(TIMED_OUT)??;
        if over.is_empty() {
            return Ok(0);
        }
        let removed = table.delete_many(doc! { "_id": { "$in": over } });
        Ok(call(removed).await?.deleted_count)
    }

    pub(in crate::store) async fn dead_letters(&self) -> anyhow::Result<Vec<DeadLetter>> {
        let read = async {
            let table = self.table(DEAD_LETTERS);
            let mut rows = table
                .find(doc! {})
                .projection(doc! { "letter": 1 })
                .sort(doc! { "last": -1, "_id": -1 })
                .await?;
            let mut letters = Vec::new();
            while rows.advance().await? {
                let letter = rows.current().get_str("letter").unwrap_or_default();
                // A damaged row costs one letter and not the list.
                letters.extend(serde_json::from_str::<DeadLetter>(letter));
            }
            anyhow::Ok(letters)
        };
        timeout(CALL_TIMEOUT, read).await.context(TIMED_OUT)?
    }

    pub(in crate::store) async fn dead_letter(
        &self,
        id: DeadLetterId,
    ) -> anyhow::Result<Option<StoredLetter>> {
        let table = self.table(DEAD_LETTERS);
        let row = call(table.find_one(doc! { "_id": id.to_string() })).await?;
        Ok(row.as_ref().and_then(stored))
    }

    pub(in crate::store) async fn remove_dead_letters(
        &self,
        ids: &[DeadLetterId],
    ) -> anyhow::Result<u64> {
        let ids: Vec<_> = ids.iter().map(DeadLetterId::to_string).collect();
        let table = self.table(DEAD_LETTERS);
        let removed = table.delete_many(doc! { "_id": { "$in": ids } });
        Ok(call(removed).await?.deleted_count)
    }

    pub(in crate::store) async fn dead_letter_counts(&self) -> anyhow::Result<LetterCounts> {
        let table = self.table(DEAD_LETTERS);
        Ok(LetterCounts {
            kept: call(table.count_documents(doc! {})).await?,
            open: call(table.count_documents(doc! { "open": true })).await?,
        })
    }
}

/// The version of a row; one without a version can be replaced once.
fn version(row: &Bdoc) -> i64 {
    row.get_i64("version").unwrap_or_default()
}

/// A letter that cannot be read counts as absent: its next arrival writes it again.
fn stored(row: &Bdoc) -> Option<StoredLetter> {
    Some(StoredLetter {
        letter: serde_json::from_str(row.get_str("letter").ok()?).ok()?,
        original: row.get_binary_generic("original").ok()?.clone(),
    })
}

fn row_of(stored: &StoredLetter, version: i64) -> anyhow::Result<Bdoc> {
    let letter = serde_json::to_string(&stored.letter)?;
    Ok(doc! {
        "_id": stored.letter.id.to_string(),
        "last": bson::DateTime::from_millis(stored.letter.last.timestamp_millis()),
        "open": stored.letter.is_open(),
        "bytes": i64::try_from(letter.len() + stored.original.len())?,
        "version": version,
        "letter": letter,
        "original": Binary { subtype: BinarySubtype::Generic, bytes: stored.original.clone() },
    })
}
