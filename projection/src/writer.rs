//! What the holder of a projection does next: replay, load or verify, a piece at a time.
//!
//! It knows the positions in the database, because nobody else writes while it has the hold. After a
//! failure a new writer reads them again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use contract::{CollectionName, DocumentId, status::ProjectionState};
use replica::{RawCollection, Root, View};

use crate::{
    ProjectionError,
    database::{Database, in_time},
    load::Load,
    plan::{Held, Work, cut, work},
    reconcile::{Progress, compare},
    replay::{Changes, replay},
    rows::Position,
    state::SharedState,
};

/// The positions of all collections; `None` for one that cannot be read.
pub(crate) type Positions = BTreeMap<CollectionName, Option<Position>>;

/// Documents that are remembered since a base; with more, rows are compared instead.
const MAX_REPLAYED: usize = 10_000;

/// Writes a projection while it has the hold.
pub(crate) struct Writer<'a> {
    pub(crate) database: Database,
    /// The token of the hold.
    pub(crate) token: &'a str,
    pub(crate) state: &'a SharedState,
    pub(crate) positions: Positions,
    /// What the rows were equal to at some moment of this hold. Since then they were changed by this
    /// writer alone.
    pub(crate) base: Option<Root>,
    /// The documents whose changes were replayed since `base`, or since the load that is under way
    /// began: one that was created and deleted again is in no difference of two moments. `None` when
    /// they were too many.
    pub(crate) replayed: Option<BTreeSet<(CollectionName, DocumentId)>>,
    /// The load that is under way.
    pub(crate) load: Option<Load>,
    /// The collections that are still to be verified in this round, with the progress of the first.
    pub(crate) verify: VecDeque<CollectionName>,
    pub(crate) verified: Progress,
    /// Whether the database is ahead of the replica.
    waits: bool,
    verify_every: Option<Duration>,
    verify_at: Option<Instant>,
}

impl<'a> Writer<'a> {
    /// A writer that goes on from these positions.
    pub(crate) fn new(
        database: Database,
        token: &'a str,
        state: &'a SharedState,
        positions: Positions,
        verify_every: Option<Duration>,
    ) -> Self {
        Self {
            database,
            token,
            state,
            positions,
            base: None,
            replayed: None,
            load: None,
            verify: VecDeque::new(),
            verified: Progress::default(),
            waits: false,
            verify_every,
            verify_at: verify_every.map(|every| Instant::now() + every),
        }
    }

    /// Does the next thing, if there is one. Returns whether there was.
    ///
    /// # Errors
    /// When a transaction failed, or the database is not one for this replica.
    pub(crate) async fn step(&mut self, view: &View) -> Result<bool, ProjectionError> {
        let root = view.root();
        // A history that ends takes its load with it.
        if self
            .load
            .as_ref()
            .is_some_and(|load| root.epoch() != Some(load.epoch))
        {
            self.load = None;
            self.base = None;
        }
        let works = works(&self.positions, view)?;
        self.note_waiting(&works);
        let needs_load = works
            .iter()
            .any(|(_name, work)| matches!(work, Work::Compare | Work::Missed));
        if self.load.is_none() && needs_load {
            self.begin_load(root, &works).await?;
        }
        // While a load collects, nothing else is written: change sets across its collections must not
        // be there in part. After that its collections are marked.
        let collects = self.load.as_ref().is_some_and(Load::collects);
        let replayed = !collects && self.replay(view, &works).await?;
        if self.load.is_some() {
            self.state.set(ProjectionState::Reconciling);
            self.continue_load(root).await?;
            return Ok(true);
        }
        if replayed {
            return Ok(true);
        }
        self.note_base(root);
        self.verify_next(view).await
    }

    /// Says it once when the database has later revisions than the replica: no row goes back.
    fn note_waiting(&mut self, works: &[(CollectionName, Work)]) {
        let waiting = works.iter().filter(|(_name, work)| *work == Work::Wait);
        let names: Vec<_> = waiting.map(|(name, _work)| name.as_str()).collect();
        let waits = !names.is_empty();
        if waits && !self.waits {
            let names = names.join(", ");
            tracing::info!(
                collections = names,
                "the projection has later revisions of {names} than this replica, and waits until the \
                 replica has them"
            );
        }
        self.waits = waits;
    }

    /// Writes one transaction of changes. Returns whether there were any.
    async fn replay(
        &mut self,
        view: &View,
        works: &[(CollectionName, Work)],
    ) -> Result<bool, ProjectionError> {
        let mut available = BTreeMap::new();
        for (name, work) in works {
            let loads = self.load.as_ref().is_some_and(|load| load.has(name));
            let position = self.position(name);
            if let (Work::Replay, false, Some(position), Some(changes)) =
                (work, loads, position, view.changes(name))
            {
                let list: Vec<_> = changes.after(position.revision).collect();
                if !list.is_empty() {
                    available.insert(name.clone(), list);
                }
            }
        }
        if available.is_empty() {
            return Ok(false);
        }
        self.state.set(ProjectionState::Behind);
        let mut batch = BTreeMap::new();
        for (name, last) in cut(&available) {
            let (Some(mut changes), Some(from)) = (available.remove(&name), self.position(&name))
            else {
                continue;
            };
            changes.retain(|change| change.revision.is_some_and(|revision| revision <= last));
            batch.insert(name, Changes { from, changes });
        }
        let (positions, rows) = replay(&self.database, self.token, &batch).await?;
        self.state.committed(rows, false);
        self.moved(positions);
        if let Some(replayed) = &mut self.replayed {
            let changes = batch.into_iter().flat_map(|(name, batch)| {
                let ids = batch.changes.into_iter().map(|change| change.id);
                ids.map(move |id| (name.clone(), id))
            });
            replayed.extend(changes);
            if replayed.len() > MAX_REPLAYED {
                self.replayed = None;
            }
        }
        Ok(true)
    }

    /// Verifies the next piece, where that is due and possible. Returns whether it did.
    ///
    /// A collection is verified while its rows are those of the revision that the replica has; what
    /// differs then was changed by somebody else, and is written again.
    async fn verify_next(&mut self, view: &View) -> Result<bool, ProjectionError> {
        let now = Instant::now();
        if self.verify.is_empty() && self.verify_at.is_some_and(|at| now >= at) {
            let names = projected(view.root()).map(|(name, _held)| name.clone());
            self.verify = names.collect();
            self.verified = Progress::default();
            self.verify_at = self.verify_every.map(|every| now + every);
        }
        let Some(name) = self.verify.front().cloned() else {
            return Ok(false);
        };
        let (Some(position), Some(held)) = (self.position(&name), view.root().collection(&name))
        else {
            self.verify_following();
            return Ok(true);
        };
        if !is_equal(view.root(), position, held) {
            // It is verified when both are at one revision again.
            return Ok(false);
        }
        let database = &self.database;
        let (rows, next) = in_time(async {
            let mut session = database.begin(self.token).await?;
            let (writes, next) =
                compare(database, &mut session, &name, held, &self.verified).await?;
            let mut rows = writes.rows;
            database.write(&mut session, writes).await?;
            // A reader relies on the position: it is verified with the last of its rows.
            if next.is_none()
                && !database
                    .has_position(&mut session, &name, &position)
                    .await?
            {
                rows += 1;
                database
                    .write_position(&mut session, &name, None, &position)
                    .await?;
            }
            database.commit(session).await?;
            Ok((rows, next))
        })
        .await?;
        self.state.committed(rows, true);
        if rows > 0 {
            let revision = position.revision;
            tracing::warn!(
                collection = %name,
                rows,
                revision,
                "{rows} rows of {name} in the projection, or of its position, were not those of \
                 revision {revision}: somebody else has changed them, and they are written again"
            );
        }
        match next {
            Some(next) => self.verified = next,
            None => self.verify_following(),
        }
        Ok(true)
    }

    /// The next collection is verified from its beginning.
    fn verify_following(&mut self) {
        self.verify.pop_front();
        self.verified = Progress::default();
    }

    /// Nothing is left to be written: where all rows are exactly the documents of this moment, later
    /// ones can be told by the difference to it.
    fn note_base(&mut self, root: &Root) {
        let mut projected = projected(root);
        if root.epoch().is_some() && projected.all(|(name, held)| self.is_equal(root, name, held)) {
            self.base = Some(root.clone());
            self.replayed = Some(BTreeSet::new());
        }
    }

    /// Whether the rows of a collection are exactly the documents that are held.
    pub(crate) fn is_equal(
        &self,
        root: &Root,
        name: &CollectionName,
        held: &RawCollection,
    ) -> bool {
        self.position(name)
            .is_some_and(|position| is_equal(root, position, held))
    }

    /// The position of a collection, where it has one that can be read.
    pub(crate) fn position(&self, name: &CollectionName) -> Option<Position> {
        self.positions.get(name).copied().flatten()
    }

    /// Positions were committed.
    pub(crate) fn moved(&mut self, positions: BTreeMap<CollectionName, Position>) {
        let new = positions.into_iter();
        self.positions
            .extend(new.map(|(name, position)| (name, Some(position))));
        self.state.positions(readable(&self.positions));
    }

    /// The state while nothing can be done.
    pub(crate) fn idle_state(&self, view: &View) -> ProjectionState {
        let is_there = |(name, held): (&CollectionName, &RawCollection)| {
            self.position(name).is_some_and(|position| {
                Some(position.epoch) == view.root().epoch() && position.revision >= held.watermark()
            })
        };
        if view.root().epoch().is_some() && projected(view.root()).all(is_there) {
            ProjectionState::Current
        } else {
            ProjectionState::Behind
        }
    }
}

/// What is to be done for each collection that is loaded and counts revisions, by these positions.
///
/// # Errors
/// [`ProjectionError::Refused`] when the database has rows of another store.
pub(crate) fn works(
    positions: &Positions,
    view: &View,
) -> Result<Vec<(CollectionName, Work)>, ProjectionError> {
    let Some(epoch) = view.root().epoch() else {
        return Ok(Vec::new());
    };
    let mut works = Vec::new();
    for (name, held) in projected(view.root()) {
        let held = Held {
            epoch,
            replaces: view.root().replaces(),
            revision: held.watermark(),
            settled: held.settled().then(|| (held.count(), held.digest())),
            changes_after: view
                .changes(name)
                .map_or(u64::MAX, |changes| changes.oldest().saturating_sub(1)),
        };
        match work(positions.get(name).copied(), &held) {
            Work::OtherStore(other) => {
                return Err(ProjectionError::Refused(format!(
                    "the rows of {name} are of the store {other}, and this replica follows \
                     {epoch}: drop the database of the projection, or name another one"
                )));
            }
            work => works.push((name.clone(), work)),
        }
    }
    Ok(works)
}

/// Whether the rows of a position are exactly the documents that are held.
fn is_equal(root: &Root, position: Position, held: &RawCollection) -> bool {
    Some(position.epoch) == root.epoch()
        && position.revision == held.watermark()
        && position.is_settled()
        && held.settled()
}

/// The collections that are projected: without revisions there is no position.
pub(crate) fn projected(root: &Root) -> impl Iterator<Item = (&CollectionName, &RawCollection)> {
    root.collections()
        .filter(|(_name, held)| held.loaded() && held.versioned())
}

/// The positions that can be read.
pub(crate) fn readable(
    positions: &Positions,
) -> impl Iterator<Item = (&CollectionName, &Position)> {
    positions
        .iter()
        .filter_map(|(name, position)| position.as_ref().map(|position| (name, position)))
}
