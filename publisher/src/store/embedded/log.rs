//! The change log: reading it, and recording what was published.

use std::ops::Range;

use anyhow::Context;
use chrono::{DateTime, Utc};
use contract::{Change, CollectionName, Revision};
use redb::ReadableDatabase;

use crate::store::embedded::{
    Embedded,
    tables::{CHANGES, PENDING, after},
};

impl Embedded {
    pub(in crate::store) async fn changes(
        &self,
        collection: &CollectionName,
        since: Revision,
        limit: usize,
        bytes: usize,
    ) -> anyhow::Result<Vec<Change>> {
        let collection = collection.clone();
        self.call(move |database| {
            let log = database.begin_read()?.open_table(CHANGES)?;
            let mut changes = Vec::new();
            let mut read = 0;
            for row in log.range(after(&collection, since))?.take(limit) {
                let (_position, change) = row?;
                changes.push(serde_json::from_slice(change.value())?);
                // Checked after the first one, so that a large change is returned too.
                read += change.value().len();
                if read >= bytes {
                    break;
                }
            }
            Ok(changes)
        })
        .await
    }

    pub(in crate::store) async fn pending(
        &self,
        collection: &CollectionName,
        since: Revision,
        recent: Range<DateTime<Utc>>,
        limit: usize,
    ) -> anyhow::Result<Vec<Change>> {
        let collection = collection.clone();
        let recent = recent.start.timestamp_millis()..recent.end.timestamp_millis();
        self.call(move |database| {
            let transaction = database.begin_read()?;
            let pending = transaction.open_table(PENDING)?;
            let log = transaction.open_table(CHANGES)?;
            let mut changes = Vec::new();
            for row in pending.range(after(&collection, since))? {
                let (position, committed) = row?;
                if changes.len() == limit {
                    break;
                }
                // The publisher that committed it is probably publishing it now.
                if recent.contains(&committed.value()) {
                    continue;
                }
                let change = log
                    .get(position.value())?
                    .context("a pending change is not in the log")?;
                changes.push(serde_json::from_slice(change.value())?);
            }
            Ok(changes)
        })
        .await
    }

    pub(in crate::store) async fn mark_published(
        &self,
        published: &[(CollectionName, Revision)],
    ) -> anyhow::Result<()> {
        let published = published.to_vec();
        self.call(move |database| {
            let mut transaction = database.begin_write()?;
            // Not worth an fsync of its own: the next group makes it durable. If it is lost, an
            // event is only published twice.
            transaction.set_durability(redb::Durability::None)?;
            let mut pending = transaction.open_table(PENDING)?;
            for (collection, revision) in &published {
                pending.remove((collection.as_str(), *revision))?;
            }
            drop(pending);
            Ok(transaction.commit()?)
        })
        .await
    }
}
