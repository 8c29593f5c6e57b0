//! A machine, the models of all epochs, and every property that must hold after each step.

use std::sync::Arc;

use contract::{
    ChangeSet, CollectionName, Digest, Operation, Revision, SetPart, fleet::SettledPoint,
};

use super::{
    differences::Follower,
    model::{COLLECTIONS, DOCUMENTS, Model, Request, Touch, id, name, value},
};
use crate::{
    CollectionState, Decision, Image, InstallError, InstallKind, LoadId, Machine, ReceivedChange,
    Root, collection::MAX_LEAD,
};

/// A step of a history. Numbers are taken modulo the number of possibilities.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Commit(Request),
    Set(Vec<Request>),
    /// An event arrives: any committed change, in any order, any number of times, with or without
    /// its value.
    Deliver {
        collection: usize,
        back: usize,
        without_value: bool,
        old: bool,
    },
    /// An event arrives that nobody has committed, and that names revisions far beyond those that
    /// exist, or another epoch.
    Forge {
        collection: usize,
        lead: Revision,
        kind: usize,
    },
    BeginLoad,
    /// The answer to the newest load arrives, from a publisher that may lag or still be in the
    /// epoch before.
    EndLoad {
        back: usize,
        old: bool,
    },
    LoseLoad,
    /// The answer to a superseded load arrives.
    LateAnswer,
    /// The next page of a delta.
    Page {
        size: usize,
    },
    /// Heads arrive.
    Heads,
    Distrust {
        collection: usize,
    },
    /// The store is restored to an earlier moment.
    Epoch {
        back: usize,
    },
    /// The process ends and another one continues from its image, perhaps with other collections.
    Restart {
        followed: u8,
    },
    Pin,
}

pub(crate) struct World {
    /// One model per epoch, the newest last.
    pub(crate) models: Vec<Model>,
    pub(crate) machine: Machine,
    load: Option<LoadId>,
    overtaken: Option<LoadId>,
    cursor: Option<[Revision; COLLECTIONS]>,
    /// The newest change of every document that readers saw.
    visible_revision: [[Touch; DOCUMENTS]; COLLECTIONS],
    last_settled: [Option<SettledPoint>; COLLECTIONS],
    pinned: Vec<(Root, [[Touch; DOCUMENTS]; COLLECTIONS])>,
    pub(crate) follower: Follower,
}

/// A machine that follows the collections whose bit is set.
pub(crate) fn machine(followed: u8) -> Machine {
    let chosen = (0..COLLECTIONS).filter(|collection| followed & (1 << collection) != 0);
    Machine::new(&chosen.map(|collection| name(collection).clone()).collect())
}

impl World {
    pub(crate) fn new(followed: u8) -> Self {
        Self {
            models: vec![Model::new()],
            machine: machine(followed),
            load: None,
            overtaken: None,
            cursor: None,
            visible_revision: Default::default(),
            last_settled: Default::default(),
            pinned: Vec::new(),
            follower: Follower::default(),
        }
    }

    /// A machine that has loaded everything that this model holds.
    pub(crate) fn loaded(followed: u8, model: Model) -> Self {
        let mut world = Self {
            models: vec![model],
            ..Self::new(followed)
        };
        world.load_newest();
        world
    }

    pub(crate) fn model(&mut self) -> &mut Model {
        self.models.last_mut().expect("there is always one")
    }

    pub(crate) fn held(&self, collection: usize) -> Option<&CollectionState> {
        self.machine.root().collection(name(collection))
    }

    /// The model of the epoch of the machine.
    fn own(&self) -> Option<&Model> {
        self.machine
            .root()
            .epoch()
            .map(|epoch| &self.models[epoch.counter as usize - 1])
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Commit(operation) => self.model().commit_set(&[operation]),
            Step::Set(operations) => self.model().commit_set(&operations),
            Step::Deliver {
                collection,
                back,
                without_value,
                old,
            } => {
                let model =
                    &self.models[self.models.len() - 1 - usize::from(old && self.models.len() > 1)];
                let changes = &model.logs[collection].changes;
                if let Some(change) = changes.iter().rev().nth(back % changes.len().max(1)) {
                    let mut change = change.clone();
                    change.config = change.config.filter(|_config| !without_value);
                    self.deliver(&change);
                }
            }
            Step::Forge {
                collection,
                lead,
                kind,
            } => self.forge(collection, lead, kind),
            Step::BeginLoad => {
                self.overtaken = self.load.take().or(self.overtaken.take());
                self.load = Some(self.machine.begin_load());
            }
            Step::EndLoad { back, old } => {
                if let Some(generation) = self.load.take() {
                    let epoch = self.models.len() - 1 - usize::from(old && self.models.len() > 1);
                    let moments = &self.models[epoch].moments;
                    self.install(
                        generation,
                        epoch,
                        moments[moments.len() - 1 - back % moments.len()],
                    );
                }
            }
            Step::LoseLoad => self
                .load
                .take()
                .into_iter()
                .for_each(|generation| self.machine.abandon_load(generation)),
            Step::LateAnswer => {
                if let Some(generation) = self.overtaken.take() {
                    let model = &self.models[self.models.len() - 1];
                    let snapshot = model.snapshot(model.newest(), &self.machine);
                    assert_eq!(
                        self.machine.install(generation, snapshot),
                        Err(InstallError::Superseded)
                    );
                }
            }
            Step::Page { size } => _ = self.page(size),
            Step::Heads => {
                let model = &self.models[self.models.len() - 1];
                self.machine.compare(&model.heads(model.newest()));
            }
            Step::Distrust { collection } => self.machine.mark_diverged(name(collection)),
            Step::Epoch { back } => {
                let moment = self.model().moments.len().saturating_sub(1 + back);
                // Up to the number of values.
                if self.models.len() < 3 {
                    let next = self.model().restored(moment);
                    self.models.push(next);
                }
            }
            Step::Restart { followed } => self.restart(followed),
            Step::Pin => {
                self.pinned
                    .push((self.machine.root().clone(), self.visible_revision));
                self.follower.look(self.machine.root());
            }
        }
        self.check();
    }

    /// Applies one change; `decide` and `apply` must agree, and the state must match the decision.
    pub(crate) fn deliver(&mut self, change: &ReceivedChange) -> Decision {
        let decided = self.machine.decide(change);
        assert_eq!(self.machine.apply(change), decided);
        let again = self.machine.decide(change);
        match decided {
            Decision::Applied | Decision::Staged | Decision::Superseded | Decision::Duplicate => {
                assert_eq!(again, Decision::Duplicate, "{change:?}");
            }
            _ => assert_eq!(again, decided, "{change:?}"),
        }
        if let Some(held) = self.machine.root().collection(&change.collection) {
            let seen = matches!(decided, Decision::Applied | Decision::Superseded);
            assert!(
                !seen || held.seen(change.revision),
                "{decided:?} and not seen: {change:?}"
            );
            assert!(
                decided != Decision::Staged || !held.seen(change.revision),
                "staged and seen: {change:?}"
            );
        }
        if !matches!(
            decided,
            Decision::Early | Decision::OtherEpoch | Decision::NotFollowed
        ) {
            for part in change.change_set.iter().flat_map(|set| &set.parts) {
                let held = self.machine.root().collection(&part.collection);
                assert!(
                    held.is_none_or(|held| !held.versioned() || held.known() >= part.last),
                    "{part:?} is not known to exist"
                );
            }
        }
        self.check();
        decided
    }

    /// Delivers an event that nobody has committed; nothing may change.
    fn forge(&mut self, collection: usize, lead: Revision, kind: usize) {
        let epoch = self.machine.root().epoch().unwrap_or(self.models[0].epoch);
        let far = self.held(collection).map_or(0, CollectionState::known);
        // Also far from what a later load brings.
        let far = far + MAX_LEAD + 10_000 + lead;
        let near = self.held(collection).map_or(0, CollectionState::watermark) + 1;
        let part = |revision, last| SetPart {
            collection: name(collection).clone(),
            first: revision,
            last,
        };
        let mut forged = ReceivedChange {
            collection: name(collection).clone(),
            id: id(0).clone(),
            epoch,
            revision: near,
            op: Operation::Update,
            config: Some(value(collection, 3, 255).clone()),
            last_set: 0,
            change_set: None,
            proof: None,
            origin: Default::default(),
        };
        match kind {
            0 => forged.revision = far,
            1 => forged.revision = Revision::MAX,
            2 => forged.last_set = near + lead - 1,
            3 => {
                let parts = vec![part(near, far)];
                let id = "forged".to_owned();
                forged.change_set = Some(Arc::new(ChangeSet { id, parts }));
            }
            _ => forged.epoch.counter += 1_000 + lead,
        }
        let state = |machine: &Machine| -> Vec<_> {
            let collections = machine.root().collections();
            collections
                .map(|(_name, held)| {
                    (
                        (held.watermark(), held.known(), held.staged()),
                        (held.beyond.clone(), held.digest(), held.proven()),
                    )
                })
                .collect()
        };
        let before = state(&self.machine);
        let decision = self.machine.apply(&forged);
        assert!(
            matches!(
                decision,
                Decision::Unconfirmed
                    | Decision::OtherEpoch
                    | Decision::Early
                    | Decision::NotFollowed
            ),
            "{decision:?}: {forged:?}"
        );
        assert_eq!(state(&self.machine), before, "{forged:?}");
    }

    /// Delivers some changes in the order of the feed, from where the last page ended. Returns
    /// whether there are more.
    fn page(&mut self, size: usize) -> bool {
        let begun = self.cursor.take();
        let Some(own) = self.own() else { return false };
        let mark = |collection| {
            self.held(collection)
                .filter(|held| held.versioned())
                .map(CollectionState::watermark)
        };
        let mut cursor = begun.unwrap_or([0, 1, 2].map(|c| mark(c).unwrap_or(Revision::MAX)));
        let mut page = Vec::new();
        for (collection, log) in own.logs.iter().enumerate() {
            let from = usize::try_from(cursor[collection])
                .map_or(log.changes.len(), |at| at.min(log.changes.len()));
            let taken = &log.changes[from..log.changes.len().min(from + size - page.len())];
            cursor[collection] = cursor[collection].saturating_add(taken.len() as Revision);
            page.extend_from_slice(taken);
        }
        let more = page.len() == size;
        self.cursor = more.then_some(cursor);
        page.iter().for_each(|change| _ = self.deliver(change));
        more
    }

    pub(crate) fn install(
        &mut self,
        generation: LoadId,
        epoch: usize,
        at: [Revision; COLLECTIONS],
    ) {
        let model = &self.models[epoch];
        let ours = self.machine.root().epoch();
        let diverged = |world: &Self| {
            world
                .machine
                .root()
                .collections()
                .filter(|(_, held)| held.diverged())
                .count()
        };
        let (before, whole) = (diverged(self), self.machine.root().loaded());
        let installed = self
            .machine
            .install(generation, model.snapshot(at, &self.machine));
        match installed {
            Ok(installed) => {
                let caught = ours == Some(model.epoch);
                assert!(ours <= Some(model.epoch), "an older history was installed");
                assert_eq!(
                    installed.how,
                    if caught {
                        InstallKind::CaughtUp
                    } else {
                        InstallKind::Replaced
                    }
                );
                assert_eq!(installed.resets, before - diverged(self));
                if !caught {
                    self.visible_revision = Default::default();
                }
                assert!(self.machine.root().loaded());
            }
            Err(InstallError::OlderEpoch(theirs)) => assert!(ours > Some(theirs)),
            Err(InstallError::Behind(_)) => {
                assert!(!whole, "only a machine that lacks a collection refuses")
            }
            Err(other) => panic!("refused: {other}"),
        }
        self.last_settled = self.settled_by_model();
    }

    /// The settled points of the machine, checked against the model. An install may pass through
    /// several.
    fn settled_by_model(&self) -> [Option<SettledPoint>; COLLECTIONS] {
        let proven = |collection| {
            let said = self.held(collection)?.last_settled()?;
            assert_eq!(
                Some(said),
                self.own().map(|own| own.settled(collection, said.revision))
            );
            assert!(
                Some(said.revision) >= self.last_settled[collection].map(|last| last.revision)
                    || self.models.len() > 1
            );
            Some(said)
        };
        [0, 1, 2].map(proven)
    }

    fn restart(&mut self, followed: u8) {
        let mut bytes = Vec::new();
        self.machine
            .root()
            .write_image(&crate::image::ImageMeta::default(), &mut bytes)
            .expect("a Vec accepts all");
        let image = Image::read(&bytes[..]).expect("intact");
        let mut next = machine(followed);
        assert!(next.restore(image));
        for (name, held) in next.root().collections() {
            match self
                .machine
                .root()
                .collection(name)
                .filter(|before| before.versioned())
            {
                Some(before) => {
                    assert_eq!(
                        (held.watermark, &held.beyond),
                        (before.watermark, &before.beyond)
                    );
                    assert!(held.documents().eq(before.documents()));
                    assert_eq!(held.tombstones, before.tombstones);
                    assert_eq!(held.known(), before.highest());
                }
                None => assert!(!held.loaded()),
            }
        }
        for collection in 0..COLLECTIONS {
            if !next
                .root()
                .collection(name(collection))
                .is_some_and(CollectionState::loaded)
            {
                self.visible_revision[collection] = Default::default();
                self.last_settled[collection] = None;
            }
        }
        self.machine = next;
        (self.load, self.overtaken, self.cursor) = (None, None, None);
        self.last_settled = self.settled_by_model();
    }

    pub(crate) fn check(&mut self) {
        let mut visible_revision: [[Touch; DOCUMENTS]; COLLECTIONS] = Default::default();
        for (collection, visible_revision) in visible_revision.iter_mut().enumerate() {
            let (Some(own), Some(held)) = (self.own(), self.held(collection)) else {
                continue;
            };
            if !held.versioned() {
                assert_eq!(
                    (held.loaded(), held.count(), held.staged(), held.watermark()),
                    (false, 0, 0, 0)
                );
                continue;
            }
            *visible_revision = visible(own, held, collection);
            // NoRollback and NoResurrection: after a newer change of a document, even a deletion,
            // readers never see an older one.
            for (now, before) in visible_revision
                .iter()
                .zip(&self.visible_revision[collection])
            {
                assert!(now.revision >= before.revision, "{now:?} after {before:?}");
            }
            assert!(held.known() >= held.highest());
            assert!(
                held.staged
                    .lowest()
                    .is_none_or(|change| change.revision > held.watermark())
            );
            let settled = held.beyond.is_empty() && held.staged() == 0;
            assert_eq!(held.settled(), settled);
            if settled {
                assert_eq!(
                    held.last_settled(),
                    Some(own.settled(collection, held.watermark()))
                );
                self.last_settled[collection] = held.last_settled();
            }
            let held = self.held(collection).expect("still followed");
            assert_eq!(held.last_settled(), self.last_settled[collection]);
            let gap = (held.known() > held.watermark()).then_some(&held.watermark);
            assert_eq!(self.machine.root().gaps().get(name(collection)), gap);
        }
        self.visible_revision = visible_revision;
        self.check_sets();
        for (pinned, then) in &self.pinned {
            for (collection, then) in then.iter().enumerate() {
                for (document, touch) in then.iter().enumerate() {
                    let now = pinned.get(name(collection), id(document));
                    assert_eq!(
                        now.map(|document| document.revision()),
                        touch.live.then_some(touch.revision),
                        "pinned"
                    );
                }
            }
        }
    }

    /// AtomicSet: readers see all members of a set, or newer changes of their documents, or none of
    /// the members. (While a followed collection was never loaded there is no root to serve.)
    fn check_sets(&self) {
        let Some(own) = self.own().filter(|_own| self.machine.root().loaded()) else {
            return;
        };
        for set in &own.sets {
            let mut first = None;
            for part in &set.parts {
                let Some(held) = self.machine.root().collection(&part.collection) else {
                    continue;
                };
                let collection = collection_of(&part.collection);
                for revision in part.first..=part.last {
                    let document = document_of(own.change(collection, revision));
                    let visible = self.visible_revision[collection][document].revision >= revision;
                    assert_eq!(visible, held.seen(revision), "{revision} of {set:?}");
                    assert_eq!(
                        visible,
                        *first.get_or_insert(visible),
                        "a part of {set:?} is visible"
                    );
                }
            }
        }
    }

    pub(crate) fn load_newest(&mut self) {
        let generation = self.machine.begin_load();
        let newest = self.model().newest();
        self.install(generation, self.models.len() - 1, newest);
        self.check();
    }

    /// One delta over everything that is missing, in pages.
    pub(crate) fn delta(&mut self, size: usize) {
        self.cursor = None;
        while self.page(size) {}
    }

    /// After a load or one delta the machine is equal to the publisher.
    pub(crate) fn converges(&mut self, by_delta: Option<usize>) {
        let head = self.model().epoch;
        let own = self.machine.root().epoch() == Some(head) && self.machine.root().loaded();
        match by_delta.filter(|_size| own) {
            Some(size) => self.delta(size),
            None => self.load_newest(),
        }
        let newest = self.model().newest();
        for (collection, newest) in newest.into_iter().enumerate() {
            if let Some(held) = self.held(collection) {
                assert_eq!(
                    (held.watermark(), held.known(), held.settled()),
                    (newest, newest, true),
                    "{held:?}"
                );
            }
        }
        let heads = self.model().heads(newest);
        assert!(!self.machine.compare(&heads) && self.machine.root().gaps().is_empty());
    }
}

fn collection_of(given: &CollectionName) -> usize {
    (0..COLLECTIONS)
        .find(|collection| name(*collection) == given)
        .expect("one of ours")
}

fn document_of(change: &ReceivedChange) -> usize {
    (0..DOCUMENTS)
        .find(|document| *id(*document) == change.id)
        .expect("one of ours")
}

/// What readers must see: of every document the newest change that was seen. Asserts that they do.
fn visible(model: &Model, held: &CollectionState, collection: usize) -> [Touch; DOCUMENTS] {
    let mut touched = model.state(collection, held.watermark()).touched;
    for revision in held.beyond.iter().flat_map(|range| range.clone()) {
        let change = model.change(collection, revision);
        let document = document_of(change);
        assert!(
            held.watermark() >= change.last_set,
            "it overtook a set: {change:?}"
        );
        touched[document] = Touch {
            revision,
            counter: change.epoch.counter,
            live: change.config.is_some(),
        };
    }
    let mut digest = Digest::default();
    for (document, touch) in touched.iter().enumerate() {
        let visible_revision = held.get(id(document));
        assert_eq!(
            visible_revision.map(|document| document.revision()),
            touch.live.then_some(touch.revision),
            "{held:?}"
        );
        if let Some(visible_revision) = visible_revision {
            let value = value(collection, touch.counter, touch.revision);
            assert_eq!(visible_revision.config_data(), value.as_str().as_bytes());
            digest = digest.with(
                visible_revision.id(),
                visible_revision.revision(),
                value.crc(),
            );
        }
    }
    assert_eq!(
        held.count(),
        touched.iter().filter(|touch| touch.live).count() as u64
    );
    assert_eq!(held.digest(), digest);
    touched
}
