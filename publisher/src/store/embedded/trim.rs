//! Removing the oldest changes of the embedded store: records and head change in one transaction.

use anyhow::Context;
use chrono::{DateTime, Utc};
use contract::{CollectionName, Head, Revision};
use redb::{Database, ReadableDatabase};
use serde::Deserialize;

use crate::store::{
    Trimmed,
    embedded::{
        Embedded,
        tables::{CHANGES, HEADS, META, PENDING, SECRET, head, identity, identity_in},
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
        let collection = collection.clone();
        let events_enabled = self.policy.events_enabled;
        self.call(move |database| {
            // Found in a read transaction, which does not block writers. A change that may be
            // removed now may be removed later too, because no change becomes pending again.
            let (trimmed, last) =
                removable(database, &collection, keep, before, limit, events_enabled)
                    .context("finding changes to remove")?;
            if trimmed.changes > 0 {
                remove(database, &collection, last).context("removing changes")?;
            }
            Ok(trimmed)
        })
        .await
    }
}

/// How many changes may be removed, and the last of them.
fn removable(
    database: &Database,
    collection: &CollectionName,
    keep: u64,
    before: DateTime<Utc>,
    limit: usize,
    events_enabled: bool,
) -> anyhow::Result<(Trimmed, Revision)> {
    /// The only field of a change that is needed here; the value is not parsed.
    #[derive(Deserialize)]
    struct CommitTime {
        time: DateTime<Utc>,
    }
    let transaction = database.begin_read()?;
    let changes = transaction.open_table(CHANGES)?;
    let pending = transaction.open_table(PENDING)?;
    let head = head(
        &transaction.open_table(HEADS)?,
        collection,
        &identity(
            &transaction.open_table(META)?,
            &transaction.open_table(SECRET)?,
        )?,
    )?;
    let mut trimmed = Trimmed::default();
    let mut last = 0;
    let newest_removable = head.revision.saturating_sub(keep);
    for row in changes
        .range((collection.as_str(), 0)..=(collection.as_str(), newest_removable))?
        .take(limit)
    {
        let (position, change) = row?;
        let (_collection, revision) = position.value();
        let CommitTime { time } = serde_json::from_slice(change.value())?;
        // Only a prefix is removed, so the first change that has to stay ends the search.
        if time >= before {
            break;
        }
        if events_enabled && pending.get(position.value())?.is_some() {
            trimmed.blocked_by = Some(revision);
            break;
        }
        trimmed.changes += 1;
        last = revision;
    }
    Ok((trimmed, last))
}

/// Removes all changes up to `last` and raises the `oldest` of the head.
fn remove(database: &Database, collection: &CollectionName, last: Revision) -> anyhow::Result<()> {
    let transaction = database.begin_write()?;
    {
        // Read again in this transaction: a group may have changed the head since.
        let mut heads = transaction.open_table(HEADS)?;
        let current = head(&heads, collection, &identity_in(&transaction)?)?;
        let trimmed = Head {
            oldest: current.oldest.max(last + 1),
            ..current
        };
        heads.insert(
            collection.as_str(),
            serde_json::to_vec(&trimmed)?.as_slice(),
        )?;
        let removed = (collection.as_str(), 0)..=(collection.as_str(), last);
        transaction
            .open_table(CHANGES)?
            .retain_in(removed.clone(), |_position, _change| false)?;
        // Where events are disabled a pending change is removed too. Without its record it could
        // not be published when events are enabled again, and reading pending changes would fail.
        transaction
            .open_table(PENDING)?
            .retain_in(removed, |_position, _committed| false)?;
    }
    Ok(transaction.commit()?)
}
