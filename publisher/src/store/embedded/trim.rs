//! Removing the oldest changes of the embedded store: records, base records and head change in one
//! transaction.

use anyhow::Context;
use chrono::{DateTime, Utc};
use contract::{CollectionName, Head, Revision};
use rusqlite::{Transaction, params};
use serde::Deserialize;

use crate::store::{
    TRIM_BYTES, Trimmed,
    embedded::{
        Embedded,
        connections::{Durability, End},
        rows, tables,
    },
};

impl Embedded {
    pub(in crate::store) async fn trim(
        &self,
        collection: &CollectionName,
        keep: u64,
        before: DateTime<Utc>,
        limit: usize,
    ) -> anyhow::Result<Trimmed> {
        // Found in a read transaction, which does not block writers. A change that may be removed now
        // may be removed later too, because no change becomes pending again.
        let name = collection.clone();
        let (trimmed, last) = self
            .read(move |store, transaction| {
                let pending = store.0.policy.broadcast.publishes(&name);
                removable(store, transaction, &name, keep, before, limit, pending)
                    .context("finding changes to remove")
            })
            .await?;
        if trimmed.changes > 0 {
            let name = collection.clone();
            self.write(Durability::Synced, move |store, transaction| {
                remove(store, transaction, &name, last).context("removing changes")?;
                Ok(End::Commit(()))
            })
            .await?;
        }
        Ok(trimmed)
    }
}

/// How many changes may be removed, and the last of them. `blocks` = a pending change stays.
fn removable(
    store: &Embedded,
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    keep: u64,
    before: DateTime<Utc>,
    limit: usize,
    blocks: bool,
) -> anyhow::Result<(Trimmed, Revision)> {
    /// The only field of a change that is needed here; the value is not parsed.
    #[derive(Deserialize)]
    struct CommitTime {
        time: DateTime<Utc>,
    }
    let head = store.head(transaction, collection, &tables::identity(transaction)?)?;
    let newest_removable = head.revision.saturating_sub(keep);
    let mut trimmed = Trimmed::default();
    let mut last = 0;
    let mut bytes = 0;
    let mut statement = transaction.prepare_cached(
        "SELECT changes.revision, crc, record, time FROM changes
         LEFT JOIN pending USING (collection, revision)
         WHERE collection = ?1 AND changes.revision <= ?2 ORDER BY changes.revision LIMIT ?3",
    )?;
    let mut rows = statement.query(params![collection.as_str(), newest_removable, limit])?;
    while let Some(row) = rows.next()? {
        let revision = match rows::record_text(collection, row) {
            Ok((revision, text)) => {
                let CommitTime { time } = serde_json::from_str(text)?;
                // Only a prefix is removed, so the first change that has to stay ends the search.
                if time >= before {
                    break;
                }
                if blocks && row.get::<_, Option<i64>>(3)?.is_some() {
                    trimmed.blocked_by = Some(revision);
                    break;
                }
                revision
            }
            // It cannot be read, so it must not keep the ones after it for ever.
            Err(damaged) => damaged.revision,
        };
        trimmed.changes += 1;
        last = revision;
        // Some of it is copied before it is removed.
        bytes += rows::bytes(row)?;
        trimmed.more = trimmed.changes >= limit || bytes >= TRIM_BYTES;
        if trimmed.more {
            break;
        }
    }
    Ok((trimmed, last))
}

/// Removes all changes up to `last` and raises the `oldest` of the head.
fn remove(
    store: &Embedded,
    transaction: &Transaction<'_>,
    collection: &CollectionName,
    last: Revision,
) -> anyhow::Result<()> {
    // Read again in this transaction: a group may have changed the head since.
    let current = store.head(transaction, collection, &tables::identity(transaction)?)?;
    let trimmed = Head {
        oldest: current.oldest.max(last + 1),
        ..current
    };
    store.make_bases(transaction, collection, last)?;
    tables::put_head(transaction, &trimmed)?;
    // Where no events of the collection are sent a pending change is removed too. Without its record
    // it could not be published when they are sent again.
    for statement in [
        "DELETE FROM changes WHERE collection = ?1 AND revision <= ?2",
        "DELETE FROM pending WHERE collection = ?1 AND revision <= ?2",
    ] {
        transaction
            .prepare_cached(statement)?
            .execute(params![collection.as_str(), last])?;
    }
    Ok(())
}

#[cfg(test)]
impl Embedded {
    /// Removes changes as a version without base records did.
    pub(in crate::store) async fn trim_without_bases(
        &self,
        collection: &CollectionName,
        last: Revision,
    ) -> anyhow::Result<()> {
        let name = collection.clone();
        let removed = self.write(Durability::Synced, move |store, transaction| {
            let head = store.head(transaction, &name, &tables::identity(transaction)?)?;
            let oldest = head.oldest.max(last + 1);
            tables::put_head(transaction, &Head { oldest, ..head })?;
            transaction.execute(
                "DELETE FROM changes WHERE collection = ?1 AND revision <= ?2",
                params![name.as_str(), last],
            )?;
            Ok(End::Commit(()))
        });
        Ok(removed.await?)
    }
}
