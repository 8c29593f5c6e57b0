//! The past of a store against a model that keeps every state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{TimeDelta, Utc};
use contract::{
    CanonicalJson, CollectionName, Context, DocumentId, Expected, Revision,
    history::{HistoryFilter, Point, SnapshotName},
};
use e2e::testbed::mongod::Mongod;
use proptest::prelude::*;

use super::history::{HistoryQuery, Previous};

pub(in crate::store) mod damage;

use crate::{
    decide::{Action, ChangeSetCommand, Command, Rules, Write, schemas::Schemas},
    policy::Broadcast,
    store::{PublisherPolicy, ServedCollections, Store, StoreUrl, mongo::Mongo, past::PastError},
};

/// A state: the value and the revision of each document.
type State = BTreeMap<String, (Revision, String)>;

pub(in crate::store) fn name() -> CollectionName {
    "A".parse().expect("a name")
}

pub(in crate::store) fn policy() -> Arc<PublisherPolicy> {
    Arc::new(PublisherPolicy {
        collections: ServedCollections::fixed(BTreeSet::from([name()])),
        rules: Rules {
            schemas: Schemas::default(),
            document_limit: 1_000_000,
            secrets: Default::default(),
        },
        broadcast: Broadcast::Off,
    })
}

fn id(number: u8) -> DocumentId {
    format!("d{number}").parse().expect("an id")
}

fn write(number: u8, action: Action) -> Write {
    Write {
        collection: name(),
        id: id(number),
        action,
        expected: Expected::Any,
        context: Context::default(),
        checked: None,
        origin: crate::decide::Origin::default(),
    }
}

/// What a test does with a store.
#[derive(Debug, Clone)]
pub(in crate::store) enum Step {
    Put(u8),
    Delete(u8),
    /// All of these in one change set.
    Set(BTreeSet<u8>),
    /// Leaves this many changes in the log, and removes a few in a step.
    Trim(u8),
    Pin(u8),
    Unpin(u8),
    /// Leaves this many changes in the log, as a version without base records did.
    Lose(u8),
}

/// `losses` = some changes are removed as an earlier version did.
pub(in crate::store) fn steps(losses: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        u32::from(losses) => (0..8u8).prop_map(Step::Lose),
        6 => (0..6u8).prop_map(Step::Put),
        3 => (0..6u8).prop_map(Step::Delete),
        1 => prop::collection::btree_set(0..6u8, 1..4).prop_map(Step::Set),
        2 => (0..8u8).prop_map(Step::Trim),
        2 => (0..3u8).prop_map(Step::Pin),
        1 => (0..3u8).prop_map(Step::Unpin),
    ];
    prop::collection::vec(step, 1..50)
}

/// A store, and every state that it ever had.
pub(in crate::store) struct Model {
    pub(in crate::store) store: Store,
    states: Vec<State>,
    pins: BTreeMap<SnapshotName, Revision>,
    /// The newest revision when base records were made again after a loss: what is older may be lost.
    floor: Option<Revision>,
    /// Whether changes were lost since.
    lost: bool,
}

impl Model {
    pub(in crate::store) fn new(store: Store) -> Self {
        Self {
            store,
            states: vec![State::new()],
            pins: BTreeMap::new(),
            floor: None,
            lost: false,
        }
    }

    fn revision(&self) -> Revision {
        self.states.len() as Revision - 1
    }

    async fn commit(&mut self, command: Command) {
        let committed = self.store.commit(Arc::from([command])).await;
        for change in committed.expect("committed").changes {
            let mut state = self.states.last().cloned().expect("a state");
            match &change.config_data {
                Some(value) => {
                    let value = (change.revision, value.as_str().to_owned());
                    state.insert(change.id.to_string(), value);
                }
                None => drop(state.remove(change.id.as_str())),
            }
            self.states.push(state);
            assert_eq!(change.revision, self.revision());
        }
    }

    fn put(&self, number: u8) -> Write {
        let text = format!(r#"{{"n":{}}}"#, self.revision());
        let value = CanonicalJson::parse(text.as_bytes()).expect("json");
        let now = self.states.last().expect("a state");
        let action = if now.contains_key(id(number).as_str()) {
            Action::Put(value)
        } else {
            Action::Create(value)
        };
        write(number, action)
    }

    /// The store makes base records again.
    fn cover(&mut self) {
        if std::mem::take(&mut self.lost) {
            self.floor = Some(self.revision());
        }
    }

    pub(in crate::store) async fn step(&mut self, step: Step) {
        match step {
            Step::Lose(keep) => {
                let last = self.revision().saturating_sub(keep.into());
                match &self.store {
                    Store::Embedded(store) => store.trim_without_bases(&name(), last).await,
                    Store::Mongo(store) => store.trim_without_bases(&name(), last).await,
                }
                .expect("removed");
                self.lost = true;
            }
            Step::Put(number) => {
                let put = self.put(number);
                self.commit(Command::Single(put)).await;
            }
            // A document that does not exist gives no change.
            Step::Delete(number) => {
                self.commit(Command::Single(write(number, Action::Delete)))
                    .await;
            }
            Step::Set(numbers) => {
                let writes = numbers.into_iter().map(|number| self.put(number));
                let writes = writes.collect();
                let id = format!("set-{}", self.revision());
                let set = ChangeSetCommand {
                    id,
                    writes,
                    ..ChangeSetCommand::default()
                };
                self.commit(Command::ChangeSet(set)).await;
            }
            Step::Trim(keep) => {
                self.cover();
                let before = Utc::now() + TimeDelta::hours(1);
                while (self.store.trim(&name(), keep.into(), before, 3).await)
                    .expect("trimmed")
                    .more
                {}
            }
            Step::Pin(number) => {
                self.cover();
                let pin = snapshot_name(number);
                let made = (self.store)
                    .create_snapshot(pin.clone(), Context::default(), Utc::now())
                    .await;
                assert_eq!(made.is_err(), self.pins.contains_key(&pin), "{made:?}");
                let revision = self.revision();
                self.pins.entry(pin).or_insert(revision);
            }
            Step::Unpin(number) => {
                let pin = snapshot_name(number);
                let deleted = self.store.delete_snapshot(&pin).await.expect("asked");
                assert_eq!(deleted, self.pins.remove(&pin).is_some());
            }
        }
    }

    /// Every state is exactly what it was or not kept, and what has to be kept is.
    pub(in crate::store) async fn check(&mut self) {
        self.cover();
        self.store.cover(&name()).await.expect("covered");
        let head = self
            .store
            .heads(&BTreeSet::from([name()]))
            .await
            .expect("heads")
            .remove(0);
        for (revision, state) in (0..).zip(&self.states) {
            let is_asked =
                revision + 1 >= head.oldest || self.pins.values().any(|pin| *pin == revision);
            let is_known = self.floor.is_none_or(|floor| revision >= floor);
            let must_be_kept = revision == 0 || is_asked && is_known;
            match self.state(&Point::Revision(revision)).await {
                Ok(found) => assert_eq!(found, *state, "{revision} of {head:?}"),
                Err(PastError::NotKept { oldest, .. }) => {
                    assert!(
                        !must_be_kept,
                        "{revision} {oldest} {head:?} {:?}",
                        self.pins
                    );
                    assert!(self.floor.is_some() || oldest == head.oldest - 1);
                }
                Err(error) => panic!("{revision}: {error:?}"),
            }
        }
        for (pin, revision) in &self.pins {
            let found = self.state(&Point::Snapshot(pin.clone())).await;
            let is_known = self.floor.is_none_or(|floor| *revision >= floor);
            match found {
                Err(PastError::NotKept { .. }) if !is_known => {}
                found => {
                    let state = &self.states[usize::try_from(*revision).expect("small")];
                    assert_eq!(found.expect("kept"), *state);
                }
            }
        }
        let ahead = Point::Revision(self.revision() + 1);
        assert!(matches!(
            self.state(&ahead).await,
            Err(PastError::Ahead { .. })
        ));
        self.check_history(head.oldest).await;
    }

    /// The state at a point: the list, after each document was compared with it.
    async fn state(&self, point: &Point) -> Result<State, PastError> {
        let point = self.store.resolve(&name(), point).await?;
        let mut state = State::new();
        let mut cursor = self.store.documents_at(&point).await?;
        while let Some(chunk) = cursor.next().await? {
            for document in chunk.documents {
                let value = String::from_utf8(document.config_data().to_vec()).expect("text");
                let id = document.id().to_string();
                assert!(state.insert(id, (document.revision(), value)).is_none());
            }
        }
        assert_eq!(point.count, state.len() as u64);
        for number in 0..6 {
            let document = self.store.document_at(&point, &id(number)).await?;
            let listed = state
                .get(id(number).as_str())
                .map(|(revision, _value)| *revision);
            assert_eq!(document.map(|it| it.revision()), listed);
        }
        Ok(state)
    }

    async fn check_history(&self, oldest: Revision) {
        for of in [None, Some(id(1))] {
            let mut query = HistoryQuery {
                collections: BTreeSet::from([name()]),
                filter: HistoryFilter {
                    id: of.clone(),
                    ..HistoryFilter::default()
                },
                before: None,
                limit: 4,
            };
            let mut found = Vec::new();
            loop {
                let page = self.store.history(&query).await.expect("a page");
                for item in page.items {
                    let revision = item.change.revision;
                    let before = usize::try_from(revision).expect("small") - 1;
                    let before = self.states[before].get(item.change.id.as_str());
                    match (&item.previous, before) {
                        (Previous::Absent, None) => {}
                        (Previous::Value(value), Some((_revision, before))) => {
                            assert_eq!(value.as_str(), before);
                        }
                        (Previous::NotKept, Some(_lost)) if self.floor.is_some() => {}
                        other => panic!("{revision}: {other:?}"),
                    }
                    found.push(revision);
                }
                let Some(next) = page.next else { break };
                query.before = Some(next.to_string().parse().expect("a cursor"));
            }
            let is_asked = |revision: &Revision| {
                let state = |revision: Revision| {
                    self.states[usize::try_from(revision).expect("small")].get("d1")
                };
                of.is_none() || state(*revision) != state(*revision - 1)
            };
            let expected: Vec<_> = (oldest..=self.revision()).rev().filter(is_asked).collect();
            assert_eq!(found, expected, "{of:?}");
        }
    }
}

fn snapshot_name(number: u8) -> SnapshotName {
    format!("s{number}").parse().expect("a name")
}

async fn embedded(folder: &tempfile::TempDir) -> Store {
    let url = StoreUrl::Embedded(folder.path().into());
    Store::open(&url, policy()).await.expect("a store")
}

async fn run(store: Store, steps: Vec<Step>) {
    let mut model = Model::new(store);
    for step in steps {
        model.step(step).await;
    }
    model.check().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_state_is_exact_or_not_kept(steps in prop_oneof![2 => steps(false), 1 => steps(true)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let folder = tempfile::TempDir::new().expect("a folder");
            run(embedded(&folder).await, steps).await;
        });
    }
}

/// The same steps as the embedded store, a few of them, each in a database of its own.
#[tokio::test]
async fn every_state_is_exact_or_not_kept_in_mongodb() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let server = e2e::testbed::mongod::Mongod::start()
        .await
        .expect("a server");
    let mut runner = TestRunner::deterministic();
    for case in 0..3 {
        let steps = steps(case % 3 == 2)
            .new_tree(&mut runner)
            .expect("steps")
            .current();
        let url = StoreUrl::Mongo {
            url: server.url("past").parse().expect("a URL"),
            database: format!("past-{case}"),
        };
        run(Store::open(&url, policy()).await.expect("a store"), steps).await;
    }
}

/// A named snapshot that is made while another publisher trims everything before it.
#[tokio::test]
async fn a_named_snapshot_and_a_trim_at_the_same_time_lose_nothing() {
    let server = e2e::testbed::mongod::Mongod::start()
        .await
        .expect("a server");
    let url = StoreUrl::Mongo {
        url: server.url("race").parse().expect("a URL"),
        database: "race".to_owned(),
    };
    let mut model = Model::new(Store::open(&url, policy()).await.expect("a store"));
    let trimming = Store::open(&url, policy()).await.expect("a store");
    for round in 0..10 {
        for number in 0..4 {
            model.step(Step::Put(number)).await;
        }
        model.step(Step::Delete(round % 4)).await;
        let pin = snapshot_name(round);
        let before = Utc::now() + TimeDelta::hours(1);
        let collection = name();
        let (made, trimmed) = tokio::join!(
            (model.store).create_snapshot(pin.clone(), Context::default(), Utc::now()),
            trimming.trim(&collection, 0, before, 1_000),
        );
        made.expect("made");
        trimmed.expect("trimmed");
        model.pins.insert(pin, model.revision());
    }
    model.step(Step::Trim(0)).await;
    model.check().await;
}

#[tokio::test]
async fn a_time_is_the_last_change_that_was_committed_by_then() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut model = Model::new(embedded(&folder).await);
    for _change in 0..40 {
        model.step(Step::Put(0)).await;
    }
    let log = model
        .store
        .changes(&name(), 0, 100, usize::MAX)
        .await
        .expect("a log");
    let resolve = async |time| {
        let point = model.store.resolve(&name(), &Point::Time(time)).await;
        point.map(|point| point.revision)
    };
    for change in &log {
        let newest = log
            .iter()
            .rfind(|other| other.time <= change.time)
            .expect("itself");
        assert_eq!(resolve(change.time).await.expect("kept"), newest.revision);
    }
    let first = log[0].time - TimeDelta::milliseconds(1);
    assert_eq!(
        resolve(first).await.expect("kept"),
        0,
        "before the first change"
    );
    let before = Utc::now() + TimeDelta::hours(1);
    model
        .store
        .trim(&name(), 10, before, 1_000)
        .await
        .expect("trimmed");
    assert_eq!(
        resolve(log[29].time).await.expect("kept"),
        30,
        "the last that was removed"
    );
    assert!(matches!(
        resolve(first).await,
        Err(PastError::NotKept { oldest: 30, .. })
    ));
}

#[tokio::test]
async fn a_change_set_is_found_while_all_of_it_is_in_the_log() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut model = Model::new(embedded(&folder).await);
    model.step(Step::Put(5)).await;
    model.step(Step::Set(BTreeSet::from([1, 2, 3]))).await;
    let found = model.store.set("set-1").await.expect("kept");
    let revisions: Vec<_> = found.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, [2, 3, 4]);
    assert!(model.store.set("set-2").await.expect("asked").is_empty());
    model.step(Step::Trim(2)).await;
    assert!(matches!(
        model.store.set("set-1").await,
        Err(PastError::NotKept { .. })
    ));
}

/// A file of a version without the past: without its tables, its column and its index.
#[tokio::test]
async fn a_file_of_an_earlier_version_gets_a_past() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut model = Model::new(embedded(&folder).await);
    model.step(Step::Put(5)).await;
    model.step(Step::Set(BTreeSet::from([1, 2, 3]))).await;
    let Model { store, states, .. } = model;
    drop(store);
    let file = folder.path().join("confcast.sqlite");
    rusqlite::Connection::open(&file)
        .and_then(|file| {
            file.execute_batch(
                "DROP INDEX changes_by_set; DROP TABLE document_log;
                 DROP TRIGGER document_log_insert; DROP TRIGGER document_log_update;
                 DROP TRIGGER document_log_delete;
                 ALTER TABLE changes DROP COLUMN set_id;
                 DROP TABLE bases; DROP TABLE coverage; DROP TABLE snapshots;",
            )
        })
        .expect("an earlier file");
    let mut model = Model {
        states,
        ..Model::new(embedded(&folder).await)
    };
    assert_eq!(model.store.set("set-1").await.expect("kept").len(), 3);
    model.step(Step::Pin(1)).await;
    model.step(Step::Put(1)).await;
    model.step(Step::Trim(0)).await;
    model.check().await;
}

async fn mongo(database: &str) -> (Mongod, Model) {
    let server = Mongod::start().await.expect("a server");
    let url = StoreUrl::Mongo {
        url: server.url(database).parse().expect("a URL"),
        database: database.to_owned(),
    };
    let store = Store::open(&url, policy()).await.expect("a store");
    (server, Model::new(store))
}

fn in_mongo(model: &Model) -> &Mongo {
    let Store::Mongo(store) = &model.store else {
        panic!("a store in MongoDB")
    };
    store.opened().expect("opened")
}

/// A publisher stops between the two steps of a trim: base records are made, the head is as before.
#[tokio::test]
async fn a_trim_that_stopped_half_way_gives_no_wrong_state() {
    let (_server, mut model) = mongo("half").await;
    for number in [1, 2, 1, 2, 3, 1, 2, 1] {
        model.step(Step::Put(number)).await;
    }
    model.step(Step::Trim(6)).await;
    in_mongo(&model).make_bases(&name(), 6).await.expect("made");
    // Of these the head says that they are kept, and they are about to be trimmed.
    model.floor = Some(6);
    for (revision, state) in (0..).zip(&model.states) {
        match model.state(&Point::Revision(revision)).await {
            Ok(found) => assert_eq!(found, *state, "{revision}"),
            Err(PastError::NotKept { oldest, .. }) => assert!(revision < 6 && oldest == 6),
            Err(error) => panic!("{revision}: {error:?}"),
        }
    }
    model.step(Step::Trim(2)).await;
    model.check().await;
}

/// A dump is put back while a publisher trims: the head is raised, and the base records of it are gone.
/// The records are there, so nothing is lost.
#[tokio::test]
async fn records_that_a_head_was_raised_over_become_base_records() {
    let (_server, mut model) = mongo("raised").await;
    for number in [1, 2, 1, 2, 3, 1, 2, 1] {
        model.step(Step::Put(number)).await;
    }
    model.step(Step::Trim(6)).await;
    let store = in_mongo(&model);
    store.raise_oldest(&name(), 6).await.expect("raised");
    model.check().await;
    model.step(Step::Pin(1)).await;
    model.step(Step::Trim(1)).await;
    model.check().await;
}

/// The same, where the base records go between two steps of the trim: the records stay.
#[tokio::test]
async fn records_stay_when_their_base_records_are_gone() {
    let (_server, mut model) = mongo("gone").await;
    for number in [1, 2, 1, 2, 3] {
        model.step(Step::Put(number)).await;
    }
    let store = in_mongo(&model);
    let made = store.make_bases(&name(), 3).await.expect("made");
    let made = made.expect("no dump is put back");
    assert!((store.remove_replaced(&name(), &made, 3).await).expect("asked"));
    assert!(!(store.remove_replaced(&name(), &made, 4).await).expect("asked"));
}

#[tokio::test]
async fn a_log_that_an_earlier_version_trimmed_to_its_end_has_no_state_of_an_earlier_time() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut model = Model::new(embedded(&folder).await);
    model.step(Step::Put(1)).await;
    model.step(Step::Lose(0)).await;
    model.step(Step::Pin(1)).await;
    let early = Point::Time("2000-01-01T00:00:00Z".parse().expect("a time"));
    assert!(matches!(
        model.state(&early).await,
        Err(PastError::NotKept { .. })
    ));
    model.check().await;
}

/// Each page of the history of six collections goes on, though hardly a change is one that is asked
/// for, and each collection has more than its share of a page.
#[tokio::test]
async fn the_history_of_several_collections_comes_to_its_end() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let names: Vec<CollectionName> = (0..6)
        .map(|number| format!("C{number}").parse().expect("a name"))
        .collect();
    let policy = PublisherPolicy {
        collections: ServedCollections::fixed(names.iter().cloned().collect()),
        rules: Rules {
            schemas: Schemas::default(),
            document_limit: 1_000_000,
            secrets: Default::default(),
        },
        broadcast: Broadcast::Off,
    };
    let url = StoreUrl::Embedded(folder.path().into());
    let store = Store::open(&url, Arc::new(policy)).await.expect("a store");
    let put = |collection: &CollectionName, number: u32, user: &str| {
        let text = format!(r#"{{"n":{number}}}"#);
        let value = CanonicalJson::parse(text.as_bytes()).expect("json");
        let action = if number == 0 {
            Action::Create(value)
        } else {
            Action::Put(value)
        };
        let context = Context::default().with_user_id(user).expect("a user");
        let key = (collection.clone(), id(0));
        Command::Single(Write::new(key, action, Expected::Any, context))
    };
    for collection in &names {
        // Ada's change is the newest, and one that many others come after.
        let changes = (0..1_500).map(|number| {
            let user = if number == 1_499 || number == 10 {
                "ada"
            } else {
                "bob"
            };
            put(collection, number, user)
        });
        let changes: Vec<_> = changes.collect();
        for group in changes.chunks(250) {
            store
                .commit(group.iter().cloned().collect())
                .await
                .expect("committed");
        }
    }
    let mut query = HistoryQuery {
        collections: names.iter().cloned().collect(),
        filter: HistoryFilter {
            user: Some("ada".to_owned()),
            ..HistoryFilter::default()
        },
        before: None,
        limit: 64,
    };
    let mut found = Vec::new();
    for _page in 0..100 {
        let page = store.history(&query).await.expect("a page");
        found.extend(
            page.items
                .iter()
                .map(|item| (item.change.collection.clone(), item.change.revision)),
        );
        assert!(
            page.next.is_none() || page.next != query.before,
            "each page goes on"
        );
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    assert_eq!(query.before, None, "it ends");
    found.sort();
    let expected = names
        .iter()
        .flat_map(|name| [(name.clone(), 11), (name.clone(), 1_500)]);
    assert_eq!(found, expected.collect::<Vec<_>>());
}
