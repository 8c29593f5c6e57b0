//! Rows of the past that were changed or removed by other means: no answer is a wrong one.

use contract::repair::{RepairRequest, RepairState};

use super::*;
use crate::store::integrity::is_damage;

/// What is done to a stored row.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Edit {
    /// Removes the base records of a document.
    RemoveBase(&'static str),
    /// Gives the base records of a document another revision.
    MoveBase(&'static str),
    /// Gives the base records of two documents the id of the other one.
    SwapBases(&'static str, &'static str),
    /// Removes a record of the log.
    RemoveRecord(Revision),
    /// Changes the text of the base records of a document.
    DamageBase(&'static str),
    DamageCoverage,
    DamageSnapshot(&'static str),
}

/// Opens the store again after rows were edited.
async fn edited(place: &Place, model: Model, edits: &[Edit]) -> Model {
    for edit in edits {
        match &model.store {
            Store::Embedded(_) => place.edit_file(*edit),
            Store::Mongo(store) => store.edit(*edit).await.expect("edited"),
        }
    }
    model
}

/// Where the stores of a test are.
pub(in crate::store) struct Place {
    folder: tempfile::TempDir,
    server: Option<e2e::testbed::mongod::Mongod>,
    stores: usize,
}

impl Place {
    async fn all() -> [Self; 2] {
        let server = e2e::testbed::mongod::Mongod::start();
        let server = server.await.expect("a server");
        [None, Some(server)].map(|server| Self {
            folder: tempfile::TempDir::new().expect("a folder"),
            server,
            stores: 0,
        })
    }

    /// An empty store.
    async fn store(&mut self) -> Model {
        self.stores += 1;
        let name = format!("damage-{}", self.stores);
        let url = match &self.server {
            None => StoreUrl::Embedded(self.file_of(&name)),
            Some(server) => StoreUrl::Mongo {
                url: server.url("past").parse().expect("a URL"),
                database: name,
            },
        };
        Model::new(Store::open(&url, policy()).await.expect("a store"))
    }

    fn file_of(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn edit_file(&self, edit: Edit) {
        let file = self.file_of(&format!("damage-{}", self.stores));
        let file = rusqlite::Connection::open(file.join("confcast.sqlite")).expect("a file");
        let sql = match edit {
            Edit::RemoveBase(id) => format!("DELETE FROM bases WHERE id = '{id}'"),
            Edit::MoveBase(id) => {
                format!("UPDATE bases SET revision = revision + 100 WHERE id = '{id}'")
            }
            Edit::SwapBases(a, b) => format!(
                "UPDATE bases SET id = 'other' WHERE id = '{a}';
                 UPDATE bases SET id = '{a}' WHERE id = '{b}';
                 UPDATE bases SET id = '{b}' WHERE id = 'other'"
            ),
            Edit::RemoveRecord(revision) => {
                format!("DELETE FROM changes WHERE revision = {revision}")
            }
            Edit::DamageBase(id) => {
                format!("UPDATE bases SET record = replace(record, 'n', 'm') WHERE id = '{id}'")
            }
            Edit::DamageCoverage => "UPDATE coverage SET coverage = '{}'".to_owned(),
            Edit::DamageSnapshot(name) => {
                format!("UPDATE snapshots SET snapshot = '{{' WHERE name = '{name}'")
            }
        };
        file.execute_batch(&sql).expect("edited");
    }

    /// A store with the log from revision 10 to 12 and base records of d0, d1 and d2. Snapshot s1 pins
    /// revision 3, in which d3 was there.
    async fn trimmed(&mut self) -> Model {
        let mut model = self.store().await;
        for number in [1, 2, 3] {
            model.step(Step::Put(number)).await;
        }
        model.step(Step::Pin(1)).await;
        model.step(Step::Delete(3)).await;
        for _change in 5..=12 {
            model.step(Step::Put(0)).await;
        }
        model.step(Step::Trim(3)).await;
        model
    }
}

impl Model {
    async fn at(&self, revision: Revision, number: u8) -> Result<Option<Revision>, PastError> {
        let point = Point::Revision(revision);
        let point = self.store.resolve(&name(), &point).await?;
        let document = self.store.document_at(&point, &id(number)).await?;
        Ok(document.map(|document| document.revision()))
    }

    /// # Panics
    /// When it is answered.
    async fn refuses(&self, revision: Revision, number: u8) {
        match self.at(revision, number).await {
            Err(PastError::Store(error)) if is_damage(&error) => {}
            other => panic!("d{number} at {revision}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_document_whose_base_record_is_gone_was_not_absent() {
    for mut place in Place::all().await {
        for edit in [
            Edit::RemoveBase("d1"),
            Edit::MoveBase("d1"),
            Edit::SwapBases("d1", "d2"),
        ] {
            let model = place.trimmed().await;
            assert_eq!(model.at(10, 1).await.expect("kept"), Some(1));
            let mut model = edited(&place, model, &[edit]).await;
            model.refuses(10, 1).await;
            assert_eq!(model.at(10, 0).await.expect("kept"), Some(10));
            // The row of now says nothing of it any more; the change does.
            model.step(Step::Put(1)).await;
            model.refuses(10, 1).await;
            model.step(Step::Delete(1)).await;
            model.refuses(10, 1).await;
        }
    }
}

#[tokio::test]
async fn absence_in_a_named_snapshot_is_proven_by_the_whole_state() {
    for mut place in Place::all().await {
        let model = place.trimmed().await;
        assert_eq!(model.at(3, 0).await.expect("kept"), None);
        assert_eq!(model.at(3, 3).await.expect("kept"), Some(3));
        let model = edited(&place, model, &[Edit::RemoveBase("d3")]).await;
        model.refuses(3, 3).await;
        assert_eq!(model.at(3, 1).await.expect("kept"), Some(1));
    }
}

#[tokio::test]
async fn a_value_across_a_missing_record_is_refused_and_its_diff_is_not_shown() {
    for mut place in Place::all().await {
        let mut model = place.store().await;
        for number in [0, 1, 0, 1, 0, 1] {
            model.step(Step::Put(number)).await;
        }
        let model = edited(&place, model, &[Edit::RemoveRecord(3)]).await;
        model.refuses(4, 0).await;
        assert_eq!(model.at(4, 1).await.expect("kept"), Some(4));
        for of in [None, Some(id(0))] {
            let page = model.page(of).await;
            let d0 = page.items.iter().filter(|item| item.change.id == id(0));
            let d0: Vec<_> = d0
                .map(|item| (item.change.revision, item.previous.clone()))
                .collect();
            assert_eq!(d0, [(5, Previous::NotKept), (1, Previous::Absent)]);
        }
    }
}

/// What an answer that is refused as damage names.
fn damage<T: std::fmt::Debug>(answer: Result<T, PastError>) -> String {
    match answer {
        Err(PastError::Store(error)) if is_damage(&error) => error.root_cause().to_string(),
        other => panic!("{other:?}"),
    }
}

async fn repair(model: &Model, how: &str) -> RepairState {
    let request = RepairRequest {
        apply: !how.is_empty(),
        discard: how == "discard",
        collections: Vec::new(),
    };
    let repaired = crate::repair::repair(&model.store, &name(), &request).await;
    repaired.expect("examined").report.state
}

#[tokio::test]
async fn a_damaged_named_snapshot_concerns_no_other_one() {
    for mut place in Place::all().await {
        let mut model = place.trimmed().await;
        model.step(Step::Pin(2)).await;
        let mut model = edited(&place, model, &[Edit::DamageSnapshot("s1")]).await;
        let of = |number| Point::Snapshot(snapshot_name(number));
        let refused = damage(model.state(&of(1)).await);
        assert!(refused.contains("the named snapshot \"s1\""), "{refused}");
        assert_eq!(model.state(&of(2)).await.expect("kept").len(), 3);
        let listed = model.store.snapshots().await.expect("listed");
        assert_eq!(listed.len(), 1);
        model.step(Step::Pin(0)).await;
        // What it pinned stays, as long as it is not deleted.
        model.step(Step::Put(0)).await;
        model.step(Step::Trim(0)).await;
        let again = (model.store)
            .create_snapshot(snapshot_name(1), Context::default(), Utc::now())
            .await;
        assert!(again.is_err(), "its name is taken");
        assert!(
            model
                .store
                .delete_snapshot(&snapshot_name(1))
                .await
                .expect("deleted")
        );
    }
}

#[tokio::test]
async fn damaged_rows_of_the_past_are_named_and_nothing_is_given_up_for_them() {
    for mut place in Place::all().await {
        let model = place.trimmed().await;
        let model = edited(&place, model, &[Edit::DamageBase("d1")]).await;
        let point = Point::Revision(10);
        let refused = damage(model.at(10, 1).await);
        assert!(
            refused.contains("the base record of revision 1"),
            "{refused}"
        );
        assert_eq!(refused, damage(model.state(&point).await));
        assert_eq!(repair(&model, "").await, RepairState::Repairable);
        assert_eq!(repair(&model, "apply").await, RepairState::Repaired);
        assert_eq!(repair(&model, "").await, RepairState::Whole);
        assert_eq!(model.state(&point).await.expect("kept").len(), 3);

        let model = place.trimmed().await;
        let model = edited(&place, model, &[Edit::DamageCoverage]).await;
        for _round in 0..2 {
            let refused = damage(model.state(&point).await);
            assert!(refused.contains("kept of the past of A"), "{refused}");
            let before = Utc::now() + TimeDelta::hours(1);
            model.store.cover(&name()).await.expect_err("not covered");
            (model.store.trim(&name(), 0, before, 3).await).expect_err("not trimmed");
        }
        assert_eq!(repair(&model, "apply").await, RepairState::Unrecoverable);
        damage(model.state(&point).await);
        assert_eq!(repair(&model, "discard").await, RepairState::Repaired);
        model.store.cover(&name()).await.expect("covered");
        assert_eq!(
            model.state(&Point::Revision(12)).await.expect("kept").len(),
            3
        );
    }
}

#[tokio::test]
async fn a_hole_in_the_log_is_not_a_state_that_is_not_kept() {
    for mut place in Place::all().await {
        let model = place.trimmed().await;
        let model = edited(&place, model, &[Edit::RemoveRecord(11)]).await;
        damage(model.state(&Point::Revision(11)).await);
        assert_eq!(
            model.state(&Point::Revision(12)).await.expect("kept").len(),
            3
        );
        assert!(matches!(
            model.state(&Point::Revision(5)).await,
            Err(PastError::NotKept { oldest: 9, .. })
        ));
    }
}

/// A publisher of an earlier version gives its records nothing by which their set is found, and may
/// still run.
#[tokio::test]
async fn change_sets_of_an_earlier_version_are_found_in_mongodb() {
    let [_embedded, mut place] = Place::all().await;
    let mut model = place.store().await;
    for number in [0, 2] {
        model
            .step(Step::Set(BTreeSet::from([number, number + 1])))
            .await;
        let Store::Mongo(store) = &model.store else {
            panic!("a store in MongoDB")
        };
        store.forget_sets().await.expect("forgotten");
        let set = format!("set-{number}");
        assert!(model.store.set(&set).await.expect("asked").is_empty());
        model.store.index_sets().await.expect("indexed");
        assert_eq!(model.store.set(&set).await.expect("kept").len(), 2);
        model.store.set("set-0").await.expect("asked");
    }
}

#[tokio::test]
async fn a_page_of_history_names_the_changes_that_it_lacks() {
    for mut place in Place::all().await {
        let mut model = place.store().await;
        for number in [0, 1, 0, 1, 0, 1] {
            model.step(Step::Put(number)).await;
        }
        let whole = model.page(None).await;
        assert!(whole.unreadable.is_empty(), "{:?}", whole.unreadable);
        let removed = [1, 3, 4, 6].map(Edit::RemoveRecord);
        let model = edited(&place, model, &removed).await;
        for (of, expected) in [
            (None, &[(6, 6), (3, 4), (1, 1)][..]),
            (Some(id(0)), &[(6, 6)]),
        ] {
            let page = model.page(of).await;
            let named = page.unreadable.iter().map(|gap| (gap.first, gap.last));
            assert_eq!(named.collect::<Vec<_>>(), expected);
        }
    }
}

impl Model {
    /// The newest changes.
    async fn page(&self, of: Option<DocumentId>) -> super::super::history::HistoryPage {
        let query = HistoryQuery {
            collections: BTreeSet::from([name()]),
            filter: HistoryFilter {
                id: of,
                ..HistoryFilter::default()
            },
            before: None,
            limit: 64,
        };
        self.store.history(&query).await.expect("a page")
    }
}
