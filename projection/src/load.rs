//! Bringing collections to one moment of the replica: after a start, in a new history, and where the
//! replica does not have the changes after a position any more.
//!
//! The differences come from the rows, or from an earlier moment that the rows were equal to. They
//! are collected, and written with the positions in one transaction. Where they are too many for
//! that, the positions are marked as `reconciling`, and the rows are written piece by piece.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use contract::{CollectionName, DocumentId, Epoch};
use replica::Root;

use crate::{
    ProjectionError,
    database::{Writes, in_time},
    plan::Work,
    reconcile::{Progress, compare},
    rows::Position,
    writer::{Writer, projected},
};

/// Rows that one transaction writes at most.
const AT_ONCE: u64 = 1_000;
/// Bytes of those rows.
const BYTES_AT_ONCE: usize = 8 << 20;
/// Documents of a difference that are written in one transaction.
const PIECE: usize = 500;

/// A load that is under way.
pub(crate) struct Load {
    /// What the rows will be: all collections at one moment.
    root: Root,
    /// Its history.
    pub(crate) epoch: Epoch,
    /// Its collections.
    names: Vec<CollectionName>,
    /// Whether the rows of the other collections were its documents when it began.
    others_are_there: bool,
    /// What is still to be looked at.
    left: Left,
    /// The differences, while they are few enough for one transaction; `None` after that.
    collected: Option<Vec<Writes>>,
    /// Rows and bytes that differed.
    rows: u64,
    bytes: usize,
}

/// Where the differences come from.
enum Left {
    /// The rows of these collections are read, the first one from here.
    Rows(VecDeque<CollectionName>, Progress),
    /// These documents differ from an earlier moment.
    Documents(VecDeque<(CollectionName, DocumentId)>),
}

impl Load {
    /// Whether nothing is written before its end.
    pub(crate) fn collects(&self) -> bool {
        self.collected.is_some()
    }

    /// Whether a collection is part of it.
    pub(crate) fn has(&self, name: &CollectionName) -> bool {
        self.names.contains(name)
    }

    /// The positions of its collections.
    fn positions(&self, reconciling: bool) -> BTreeMap<CollectionName, Position> {
        let position = |name: &CollectionName| {
            let held = self.root.collection(name)?;
            let position = Position {
                epoch: self.epoch,
                revision: held.watermark(),
                count: held.count(),
                digest: held.digest(),
                // Later changes may be in the documents already.
                settled_at: if held.settled() {
                    held.watermark()
                } else {
                    held.known()
                },
                reconciling,
            };
            Some((name.clone(), position))
        };
        self.names.iter().filter_map(position).collect()
    }

    /// The next documents of a difference, as they are now.
    fn next_documents(&mut self) -> Result<Vec<Writes>, ProjectionError> {
        let Left::Documents(left) = &mut self.left else {
            return Ok(Vec::new());
        };
        let mut writes: Vec<(CollectionName, Writes)> = Vec::new();
        let mut bytes = 0;
        for _document in 0..PIECE {
            let Some((name, id)) = left.pop_front() else {
                break;
            };
            // They come by collection.
            if writes.last().is_none_or(|(last, _writes)| *last != name) {
                writes.push((name.clone(), Writes::of(&name)));
            }
            let Some((_name, of_collection)) = writes.last_mut() else {
                break;
            };
            match self.root.get(&name, &id) {
                Some(document) => {
                    let (revision, crc) = (document.revision(), document.crc());
                    let config = document.config_data();
                    of_collection.put_document(&id, revision, crc, config)?;
                    bytes += document.json().len();
                }
                None => of_collection.remove(id.as_str()),
            }
            if bytes > BYTES_AT_ONCE {
                break;
            }
        }
        Ok(writes.into_iter().map(|(_name, writes)| writes).collect())
    }
}

impl Writer<'_> {
    /// Begins a load of all collections whose rows are not those of the replica: also of those whose
    /// changes could be replayed, so that all of them arrive at one moment.
    ///
    /// # Errors
    /// When a collection without a position has documents, or the database does not answer.
    pub(crate) async fn begin_load(
        &mut self,
        root: &Root,
        works: &[(CollectionName, Work)],
    ) -> Result<(), ProjectionError> {
        let Some(epoch) = root.epoch() else {
            return Ok(());
        };
        let names: Vec<_> = works
            .iter()
            .filter(|(_name, work)| matches!(work, Work::Compare | Work::Missed | Work::Replay))
            .map(|(name, _work)| name.clone())
            .collect();
        for name in &names {
            if !self.positions.contains_key(name) {
                self.database.check_blank(name).await?;
                self.database.create(name.as_str()).await?;
            }
        }
        let must_compare = works.iter().any(|(_name, work)| *work == Work::Compare);
        let base = self.base.as_ref().filter(|base| {
            let has = |name: &CollectionName| projected(base).any(|(held, _)| held == name);
            !must_compare && base.epoch() == Some(epoch) && names.iter().all(has)
        });
        let left = match (base, self.replayed.take()) {
            (Some(base), Some(replayed)) => {
                let differences = root.changes_since(base).into_iter();
                let documents: BTreeSet<_> = differences
                    .map(|difference| (difference.collection.clone(), difference.id.clone()))
                    .chain(replayed)
                    .filter(|(name, _id)| names.contains(name))
                    .collect();
                Left::Documents(documents.into_iter().collect())
            }
            _no_base => Left::Rows(names.iter().cloned().collect(), Progress::default()),
        };
        // Not where the database is ahead: its rows are of changes that this replica does not have yet.
        let others_are_there = projected(root)
            .filter(|(name, _held)| !names.contains(name))
            .all(|(name, held)| self.is_equal(root, name, held));
        // What is replayed from now on, of other collections, is later than this moment.
        self.replayed = Some(BTreeSet::new());
        let shown = names.iter().map(CollectionName::as_str).collect::<Vec<_>>();
        let shown = shown.join(", ");
        let reads_rows = matches!(left, Left::Rows(..));
        tracing::info!(
            collections = shown,
            reads_rows,
            "the projection brings these collections up to date: {shown}"
        );
        self.load = Some(Load {
            root: root.clone(),
            epoch,
            names,
            others_are_there,
            left,
            collected: Some(Vec::new()),
            rows: 0,
            bytes: 0,
        });
        Ok(())
    }

    /// Looks at the next piece, or ends the load. `now` is what the replica holds.
    ///
    /// # Errors
    /// When a transaction failed: the load is then gone, and a new writer begins again.
    pub(crate) async fn continue_load(&mut self, now: &Root) -> Result<(), ProjectionError> {
        let Some(mut load) = self.load.take() else {
            return Ok(());
        };
        let writes = match &load.left {
            Left::Rows(names, _progress) if names.is_empty() => {
                return self.end_load(load, now).await;
            }
            Left::Documents(left) if left.is_empty() => return self.end_load(load, now).await,
            Left::Rows(..) => self.compare_next(&mut load).await?,
            Left::Documents(_) => load.next_documents()?,
        };
        self.found(&mut load, writes).await?;
        self.load = Some(load);
        Ok(())
    }

    /// Compares the next piece of rows. The differences, unless they are written already.
    async fn compare_next(&self, load: &mut Load) -> Result<Vec<Writes>, ProjectionError> {
        let Left::Rows(names, progress) = &mut load.left else {
            return Ok(Vec::new());
        };
        let Some((name, held)) = names
            .front()
            .and_then(|name| Some((name.clone(), load.root.collection(name)?)))
        else {
            names.pop_front();
            return Ok(Vec::new());
        };
        let database = &self.database;
        let collects = load.collected.is_some();
        let (found, next) = in_time(async {
            let mut session = database.begin(self.token).await?;
            let (writes, next) = compare(database, &mut session, &name, held, progress).await?;
            if collects {
                database.commit(session).await?;
                return Ok((vec![writes], next));
            }
            let rows = writes.rows;
            database.write(&mut session, writes).await?;
            database.commit(session).await?;
            self.state.committed(rows, false);
            load.rows += rows;
            Ok((Vec::new(), next))
        })
        .await?;
        match next {
            Some(next) => *progress = next,
            None => {
                names.pop_front();
                *progress = Progress::default();
            }
        }
        Ok(found)
    }

    /// Keeps or writes differences that were found.
    async fn found(&mut self, load: &mut Load, writes: Vec<Writes>) -> Result<(), ProjectionError> {
        if writes.is_empty() {
            return Ok(());
        }
        load.rows += writes.iter().map(|writes| writes.rows).sum::<u64>();
        load.bytes += writes
            .iter()
            .map(|writes| writes.total_bytes)
            .sum::<usize>();
        let Some(collected) = &mut load.collected else {
            return self.write_all(writes, &BTreeMap::new()).await;
        };
        collected.extend(writes);
        if load.rows <= AT_ONCE && load.bytes <= BYTES_AT_ONCE {
            return Ok(());
        }
        // More than one transaction takes: readers are told, and what was collected is written.
        let collected = load.collected.take().unwrap_or_default();
        let marked = load.positions(true);
        self.write_all(Vec::new(), &marked).await?;
        for writes in collected {
            self.write_all(vec![writes], &BTreeMap::new()).await?;
        }
        Ok(())
    }

    /// The rows are those of the load: the positions say so.
    async fn end_load(&mut self, mut load: Load, now: &Root) -> Result<(), ProjectionError> {
        let collected = load.collected.take().unwrap_or_default();
        self.write_all(collected, &load.positions(false)).await?;
        let rows = load.rows;
        tracing::info!(
            rows,
            "the projection has what the replica held when its load began: {rows} rows were written \
             or removed"
        );
        self.base = load.others_are_there.then(|| load.root.clone());
        if rows > 0 {
            // What was written is read once more, with its values.
            let is_held = |name: &CollectionName| now.collection(name).is_some();
            self.verify = load.names.into_iter().filter(is_held).collect();
            self.verified = Progress::default();
        }
        Ok(())
    }

    /// Writes rows and positions in one transaction.
    async fn write_all(
        &mut self,
        writes: Vec<Writes>,
        positions: &BTreeMap<CollectionName, Position>,
    ) -> Result<(), ProjectionError> {
        let database = &self.database;
        let rows = writes.iter().map(|writes| writes.rows).sum();
        in_time(async {
            let mut session = database.begin(self.token).await?;
            for writes in writes {
                database.write(&mut session, writes).await?;
            }
            for (name, position) in positions {
                database
                    .write_position(&mut session, name, None, position)
                    .await?;
            }
            database.commit(session).await
        })
        .await?;
        self.state.committed(rows, false);
        self.moved(positions.clone());
        Ok(())
    }
}
