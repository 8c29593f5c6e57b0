//! Writing the changes after the positions, in one transaction: whole change sets, and the positions
//! with them. A row that is newer than a change stays.

use std::collections::BTreeMap;

use contract::{CollectionName, EventData, Operation, Revision};
use mongodb::{ClientSession, bson::doc};

use crate::{
    ProjectionError,
    database::{Database, Writes, in_time},
    rows::{Position, head_of_row},
};

/// The changes of one collection that are to be written, and where they begin.
#[derive(Debug)]
pub(crate) struct Changes {
    /// The position before them.
    pub(crate) from: Position,
    /// In the order of revisions, without a gap.
    pub(crate) changes: Vec<EventData>,
}

/// Writes changes in one transaction. Returns the positions after it, and how many rows changed.
///
/// # Errors
/// As [`Database::begin`] and [`Database::commit`]. Nothing is written then, or the outcome is not known.
pub(crate) async fn replay(
    database: &Database,
    token: &str,
    batch: &BTreeMap<CollectionName, Changes>,
) -> Result<(BTreeMap<CollectionName, Position>, u64), ProjectionError> {
    in_time(async {
        let mut session = database.begin(token).await?;
        let mut positions = BTreeMap::new();
        let mut rows = 0;
        for (name, changes) in batch {
            let (writes, position) = writes_of(database, &mut session, name, changes).await?;
            rows += writes.rows;
            database.write(&mut session, writes).await?;
            database
                .write_position(&mut session, name, Some(&changes.from), &position)
                .await?;
            positions.insert(name.clone(), position);
        }
        database.commit(session).await?;
        Ok((positions, rows))
    })
    .await
}

/// The writes that lead to the last of some changes, and the position there.
async fn writes_of(
    database: &Database,
    session: &mut ClientSession,
    name: &CollectionName,
    Changes { from, changes }: &Changes,
) -> Result<(Writes, Position), ProjectionError> {
    // Of each document the last change decides.
    let mut last = BTreeMap::new();
    let mut reached: Revision = from.revision;
    for change in changes {
        reached = change.revision.unwrap_or(reached);
        last.insert(change.id.clone(), change);
    }
    let mut before = BTreeMap::new();
    let ids: Vec<_> = last.keys().map(|id| id.as_str()).collect();
    let mut found = database
        .table(name.as_str())
        .find(doc! { "_id": { "$in": ids } })
        .projection(doc! { "revision": 1, "crc": 1 })
        .session(&mut *session)
        .await?;
    while let Some(row) = found.next(&mut *session).await.transpose()? {
        // A row that cannot be read is replaced. The digest then differs, which leads to a
        // comparison.
        if let Some((id, revision, crc)) = head_of_row(&row) {
            before.insert(id, (revision, crc));
        }
    }
    let mut writes = Writes::of(name);
    let (mut count, mut digest) = (from.count, from.digest);
    for (id, change) in last {
        let revision = change.revision.unwrap_or(reached);
        let old = before.get(&id);
        if old.is_some_and(|(held, _crc)| *held >= revision) {
            continue;
        }
        if let Some((held, crc)) = old {
            count = count.saturating_sub(1);
            digest = digest.without(&id, *held, *crc);
        }
        match &change.config_data {
            Some(config) if change.op != Operation::Delete => {
                let crc = config.crc();
                let bytes = config.as_str().as_bytes();
                writes.put_document(&id, revision, crc, bytes)?;
                count += 1;
                digest = digest.with(&id, revision, crc);
            }
            _deleted => writes.remove(id.as_str()),
        }
    }
    let position = Position {
        revision: reached,
        count,
        digest,
        ..*from
    };
    Ok((writes, position))
}
