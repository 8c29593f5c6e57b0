//! Trimming the log of the embedded store: records and head in one transaction.

use chrono::{DateTime, Utc};
use contract::{CollectionName, Head, Revision};
use redb::{Database, ReadableDatabase};
use serde::Deserialize;

use crate::store::{
    Trimmed,
    embedded::{CHANGES, Embedded, HEADS, META, OWED, epoch, head},
};

impl Embedded {
    pub(in crate::store) async fn trim(
        &self,
        collection: &CollectionName,
        keep: u64,
        before: DateTime<Utc>,
        limit: usize,
    ) -> anyhow::Result<Trimmed> {
        let (collection, owing) = (collection.clone(), self.terms.events_enabled);
        self.call(move |database| {
            // Found without holding up writers: what may go now may go for ever, because nothing
            // becomes owed again.
            let (trimmed, last) = removable(database, &collection, keep, before, limit, owing)?;
            if trimmed.changes > 0 {
                remove(database, &collection, last)?;
            }
            Ok(trimmed)
        })
        .await
    }
}

/// What may go, and the last of it.
fn removable(
    database: &Database,
    collection: &CollectionName,
    keep: u64,
    before: DateTime<Utc>,
    limit: usize,
    owing: bool,
) -> anyhow::Result<(Trimmed, Revision)> {
    #[derive(Deserialize)]
    struct Committed {
        time: DateTime<Utc>,
    }
    let transaction = database.begin_read()?;
    let (changes, owed) = (
        transaction.open_table(CHANGES)?,
        transaction.open_table(OWED)?,
    );
    let head = head(
        &transaction.open_table(HEADS)?,
        collection,
        epoch(&transaction.open_table(META)?)?,
    )?;
    let (mut trimmed, mut last) = (Trimmed::default(), 0);
    let beyond = head.revision.saturating_sub(keep);
    for row in changes
        .range((collection.as_str(), 0)..=(collection.as_str(), beyond))?
        .take(limit)
    {
        let (place, change) = row?;
        let Committed { time } = serde_json::from_slice(change.value())?;
        let (_collection, revision) = place.value();
        if time >= before {
            break;
        }
        if owing && owed.get(place.value())?.is_some() {
            trimmed.held_up = Some(revision);
            break;
        }
        (trimmed.changes, last) = (trimmed.changes + 1, revision);
    }
    Ok((trimmed, last))
}

fn remove(database: &Database, collection: &CollectionName, last: Revision) -> anyhow::Result<()> {
    let transaction = database.begin_write()?;
    {
        let mut heads = transaction.open_table(HEADS)?;
        let now = head(&heads, collection, epoch(&transaction.open_table(META)?)?)?;
        let trimmed = Head {
            oldest: now.oldest.max(last + 1),
            ..now
        };
        heads.insert(
            collection.as_str(),
            serde_json::to_vec(&trimmed)?.as_slice(),
        )?;
        let gone = (collection.as_str(), 0)..=(collection.as_str(), last);
        transaction
            .open_table(CHANGES)?
            .retain_in(gone.clone(), |_place, _change| false)?;
        // Whoever sends what is owed looks for the record.
        transaction
            .open_table(OWED)?
            .retain_in(gone, |_place, _committed| false)?;
    }
    Ok(transaction.commit()?)
}
