//! The model of a publisher: one log per collection, its state at every revision, and its change
//! sets.

use std::sync::{Arc, LazyLock};

use contract::{
    CanonicalJson, ChangeSet, CollectionName, Digest, Document, DocumentId, Epoch, Head, Operation,
    Replaced, Revision, SetPart, fleet::SettledPoint, snapshot,
};

use crate::{Machine, ReceivedChange, Snapshot};

/// Number of collections, followed or not.
pub(crate) const COLLECTIONS: usize = 3;
/// Documents per collection: few, so that changes of one document meet.
pub(crate) const DOCUMENTS: usize = 4;

const REVISIONS: usize = 256;

static NAMES: LazyLock<Vec<CollectionName>> = LazyLock::new(|| {
    ["A", "B", "C"]
        .map(|name| name.parse().expect("a name"))
        .to_vec()
});
static IDS: LazyLock<Vec<DocumentId>> = LazyLock::new(|| {
    (0..DOCUMENTS)
        .map(|n| format!("doc-{n}").parse().expect("an id"))
        .collect()
});
static VALUES: LazyLock<Vec<CanonicalJson>> = LazyLock::new(|| {
    let value = |n| CanonicalJson::parse(format!(r#"{{"value":{n}}}"#).as_bytes()).expect("json");
    (0..4 * COLLECTIONS * REVISIONS).map(value).collect()
});

pub(crate) fn name(collection: usize) -> &'static CollectionName {
    &NAMES[collection]
}

pub(crate) fn id(document: usize) -> &'static DocumentId {
    &IDS[document]
}

/// The value of a revision; no other revision has the same one.
pub(crate) fn value(collection: usize, counter: u64, revision: Revision) -> &'static CanonicalJson {
    let revision = revision as usize % REVISIONS;
    &VALUES[((counter as usize % 4) * COLLECTIONS + collection) * REVISIONS + revision]
}

/// The newest change of a document at a revision; revision 0 when there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Touch {
    pub(crate) revision: Revision,
    pub(crate) counter: u64,
    pub(crate) live: bool,
}

/// A collection at one revision.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    pub(crate) touched: [Touch; DOCUMENTS],
    pub(crate) digest: Digest,
    pub(crate) last_set: Revision,
}

#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) changes: Vec<ReceivedChange>,
    /// `states[r]` is the collection at revision r.
    pub(crate) states: Vec<State>,
}

/// One operation of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) collection: usize,
    pub(crate) document: usize,
    /// Only an existing document can be deleted; otherwise it is created.
    pub(crate) delete: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) epoch: Epoch,
    pub(crate) replaces: Replaced,
    pub(crate) logs: Vec<Log>,
    pub(crate) sets: Vec<Arc<ChangeSet>>,
    /// The revisions of all collections after each commit: the possible moments of a snapshot.
    pub(crate) moments: Vec<[Revision; COLLECTIONS]>,
}

impl Model {
    pub(crate) fn new() -> Self {
        let log = Log {
            changes: Vec::new(),
            states: vec![State::default()],
        };
        Self {
            epoch: Epoch {
                lineage: 7,
                counter: 1,
            },
            replaces: Replaced::default(),
            logs: vec![log; COLLECTIONS],
            sets: Vec::new(),
            moments: vec![[0; COLLECTIONS]],
        }
    }

    pub(crate) fn revision(&self, collection: usize) -> Revision {
        self.logs[collection].changes.len() as Revision
    }

    pub(crate) fn change(&self, collection: usize, revision: Revision) -> &ReceivedChange {
        &self.logs[collection].changes[revision as usize - 1]
    }

    pub(crate) fn state(&self, collection: usize, revision: Revision) -> &State {
        &self.logs[collection].states[revision as usize]
    }

    pub(crate) fn settled(&self, collection: usize, revision: Revision) -> SettledPoint {
        SettledPoint {
            revision,
            digest: self.state(collection, revision).digest,
        }
    }

    /// Commits one change.
    pub(crate) fn commit(&mut self, collection: usize, document: usize, delete: bool) {
        self.commit_set(&[Request {
            collection,
            document,
            delete,
        }]);
    }

    /// Commits several changes together; with one effective change there is no change set.
    pub(crate) fn commit_set(&mut self, operations: &[Request]) {
        let mut operations = operations.to_vec();
        operations.sort();
        operations.dedup_by_key(|operation| (operation.collection, operation.document));
        let part = |collection| {
            let members = operations
                .iter()
                .filter(|operation| operation.collection == collection)
                .count() as Revision;
            let first = self.revision(collection) + 1;
            let part = SetPart {
                collection: name(collection).clone(),
                first,
                last: first + members - 1,
            };
            (members > 0).then_some(part)
        };
        let parts: Vec<SetPart> = (0..COLLECTIONS).filter_map(part).collect();
        let set = (operations.len() > 1).then(|| {
            Arc::new(ChangeSet {
                id: format!("set-{}", self.sets.len()),
                parts,
            })
        });
        for operation in &operations {
            self.push(operation, set.clone());
        }
        if let Some(set) = set {
            for operation in &operations {
                let last = self.revision(operation.collection);
                self.logs[operation.collection].states[last as usize].last_set = last;
            }
            self.sets.push(set);
        }
        self.moments
            .push([0, 1, 2].map(|collection| self.revision(collection)));
    }

    fn push(&mut self, operation: &Request, change_set: Option<Arc<ChangeSet>>) {
        let Request {
            collection,
            document,
            delete,
        } = *operation;
        let epoch = self.epoch;
        let log = &mut self.logs[collection];
        let mut state = log.states[log.changes.len()];
        let revision = log.changes.len() as Revision + 1;
        let old = state.touched[document];
        if old.live {
            let crc = value(collection, old.counter, old.revision).crc();
            state.digest = state.digest.without(id(document), old.revision, crc);
        }
        let (op, config) = match (old.live, delete) {
            (true, true) => (Operation::Delete, None),
            (true, false) => (
                Operation::Update,
                Some(value(collection, epoch.counter, revision).clone()),
            ),
            (false, _) => (
                Operation::Create,
                Some(value(collection, epoch.counter, revision).clone()),
            ),
        };
        if let Some(config) = &config {
            state.digest = state.digest.with(id(document), revision, config.crc());
        }
        state.touched[document] = Touch {
            revision,
            counter: epoch.counter,
            live: config.is_some(),
        };
        let (collection, id, last_set) = (
            name(collection).clone(),
            id(document).clone(),
            state.last_set,
        );
        log.changes.push(ReceivedChange {
            collection,
            id,
            epoch,
            revision,
            op,
            config,
            last_set,
            change_set,
            proof: None,
            origin: Default::default(),
        });
        log.states.push(state);
    }

    /// Restores the store to an earlier moment, and a publisher declares a new epoch.
    pub(crate) fn restored(&self, moment: usize) -> Self {
        let at = self.moments[moment % self.moments.len()];
        let mut next = self.clone();
        next.epoch.counter += 1;
        for (log, at) in next.logs.iter_mut().zip(at) {
            log.changes.truncate(at as usize);
            log.states.truncate(at as usize + 1);
        }
        // No snapshot of this epoch is below the sets of the earlier epoch, so readers cannot see
        // parts of them.
        next.sets.clear();
        next.moments = vec![at];
        next
    }

    pub(crate) fn heads(&self, at: [Revision; COLLECTIONS]) -> Vec<Head> {
        let head = |collection: usize| {
            let state = self.state(collection, at[collection]);
            let count = state.touched.iter().filter(|touch| touch.live).count() as u64;
            let empty = Head::empty(name(collection).clone(), self.epoch);
            Head {
                revision: at[collection],
                count,
                digest: state.digest,
                last_set: state.last_set,
                replaces: self.replaces.clone(),
                ..empty
            }
        };
        (0..COLLECTIONS).map(head).collect()
    }

    pub(crate) fn newest(&self) -> [Revision; COLLECTIONS] {
        [0, 1, 2].map(|collection| self.revision(collection))
    }

    pub(crate) fn snapshot(&self, at: [Revision; COLLECTIONS], machine: &Machine) -> Snapshot {
        let mut builder = Snapshot::begin(snapshot::SnapshotStart {
            epoch: self.epoch,
            heads: self.heads(at),
        });
        let mut count = 0;
        for (collection, at) in at.into_iter().enumerate() {
            let touched = self.state(collection, at).touched;
            for (document, touch) in touched
                .iter()
                .enumerate()
                .filter(|(_document, touch)| touch.live)
            {
                let value = value(collection, touch.counter, touch.revision);
                let document = Document::new(id(document).clone(), touch.revision, value);
                let item = snapshot::SnapshotItem {
                    collection: name(collection).clone(),
                    crc: document.crc(),
                    document,
                };
                builder
                    .item(item, machine.root())
                    .expect("an announced, intact item");
                count += 1;
            }
        }
        builder
            .complete(&snapshot::SnapshotEnd { end: true, count }, machine.root())
            .expect("complete")
    }
}
