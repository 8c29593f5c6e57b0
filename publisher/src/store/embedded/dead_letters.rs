//! Rows of dead letters in the embedded store.

use contract::dead_letter::{DeadLetter, DeadLetterId};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::store::{
    dead_letters::{Bounds, LetterChange, LetterCounts, LetterDurability, StoredLetter},
    embedded::{
        Embedded,
        connections::{Durability, End},
    },
};

/// `last` is when the letter arrived last, in milliseconds, `open` whether it was not sent again since
/// then, `bytes` the size of letter and original together.
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS dead_letters (
  id TEXT NOT NULL PRIMARY KEY, last INTEGER NOT NULL, open INTEGER NOT NULL,
  bytes INTEGER NOT NULL, letter TEXT NOT NULL, original BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS dead_letters_order ON dead_letters (open, last, id, bytes);
";

/// Makes the table where it is missing: in a new file, and in one of an earlier version.
pub(super) fn create_table(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    Ok(transaction.execute_batch(TABLE)?)
}

impl Embedded {
    pub(in crate::store) async fn change_dead_letter(
        &self,
        id: DeadLetterId,
        durability: LetterDurability,
        change: impl Fn(Option<StoredLetter>) -> Option<StoredLetter> + Send + 'static,
    ) -> anyhow::Result<LetterChange> {
        let durability = match durability {
            LetterDurability::Now => Durability::Synced,
            LetterDurability::Soon => Durability::Later,
        };
        let changed = self.write(durability, move |_store, transaction| {
            let stored = read(transaction, id)?;
            let size = stored.as_ref().map(|stored| stored.original.len());
            let Some(next) = change(stored) else {
                return Ok(End::RollBack(LetterChange::default()));
            };
            put(transaction, &next)?;
            let evicted = if next.is_more_than(size) {
                evict(transaction)?
            } else {
                0
            };
            Ok(End::Commit(LetterChange {
                evicted,
                letter: Some(next.letter),
                is_new: size.is_none(),
            }))
        });
        Ok(changed.await?)
    }

    pub(in crate::store) async fn dead_letters(&self) -> anyhow::Result<Vec<DeadLetter>> {
        self.read(|_store, transaction| {
            let mut statement = transaction
                .prepare_cached("SELECT letter FROM dead_letters ORDER BY last DESC, id DESC")?;
            let mut found = statement.query([])?;
            let mut letters = Vec::new();
            while let Some(row) = found.next()? {
                // A damaged row costs one letter and not the list.
                letters.extend(serde_json::from_slice::<DeadLetter>(
                    row.get_ref(0)?.as_bytes()?,
                ));
            }
            Ok(letters)
        })
        .await
    }

    pub(in crate::store) async fn dead_letter(
        &self,
        id: DeadLetterId,
    ) -> anyhow::Result<Option<StoredLetter>> {
        self.read(move |_store, transaction| read(transaction, id))
            .await
    }

    pub(in crate::store) async fn remove_dead_letters(
        &self,
        ids: Vec<DeadLetterId>,
    ) -> anyhow::Result<u64> {
        let removed = self.write(Durability::Synced, move |_store, transaction| {
            let mut statement =
                transaction.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?;
            let mut removed = 0;
            for id in &ids {
                removed += statement.execute([id.to_string()])?;
            }
            Ok(End::Commit(u64::try_from(removed)?))
        });
        Ok(removed.await?)
    }

    pub(in crate::store) async fn dead_letter_counts(&self) -> anyhow::Result<LetterCounts> {
        self.read(|_store, transaction| {
            let mut statement = transaction
                .prepare_cached("SELECT count(*), ifnull(sum(open), 0) FROM dead_letters")?;
            let counts = statement.query_row([], |row| {
                Ok(LetterCounts {
                    kept: row.get(0)?,
                    open: row.get(1)?,
                })
            });
            Ok(counts?)
        })
        .await
    }
}

/// A letter that cannot be read counts as absent: its next arrival writes it again.
fn read(transaction: &Transaction<'_>, id: DeadLetterId) -> anyhow::Result<Option<StoredLetter>> {
    let mut statement =
        transaction.prepare_cached("SELECT letter, original FROM dead_letters WHERE id = ?1")?;
    let row = statement.query_row([id.to_string()], |row| {
        Ok((
            row.get_ref(0)?.as_bytes()?.to_vec(),
            row.get_ref(1)?.as_bytes()?.to_vec(),
        ))
    });
    Ok(row.optional()?.and_then(|(letter, original)| {
        let letter = serde_json::from_slice(&letter).ok()?;
        Some(StoredLetter { letter, original })
    }))
}

fn put(transaction: &Transaction<'_>, stored: &StoredLetter) -> anyhow::Result<()> {
    let letter = serde_json::to_string(&stored.letter)?;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO dead_letters (id, last, open, bytes, letter, original)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            stored.letter.id.to_string(),
            stored.letter.last.timestamp_millis(),
            stored.letter.is_open(),
            letter.len() + stored.original.len(),
            letter,
            stored.original,
        ])?;
    Ok(())
}

/// Removes the rows above the bounds, and says how many they were.
fn evict(transaction: &Transaction<'_>) -> anyhow::Result<u64> {
    let mut over = Vec::new();
    let mut bounds = Bounds::default();
    let mut statement = transaction.prepare_cached(
        "SELECT id, bytes FROM dead_letters ORDER BY open DESC, last DESC, id DESC",
    )?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        if bounds.is_over(row.get(1)?) {
            over.push(row.get::<_, String>(0)?);
        }
    }
    let mut delete = transaction.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?;
    for id in &over {
        delete.execute([id])?;
    }
    Ok(u64::try_from(over.len())?)
}
